"""Nodes as containers, through the Docker SDK; Podman serves the same API."""
