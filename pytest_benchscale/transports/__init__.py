"""How a command or a file gets into a node."""
