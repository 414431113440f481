"""Commands and files through a shell that waits inside a node, whichever way its streams come."""
