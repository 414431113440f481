"""The way into a node by ssh."""
