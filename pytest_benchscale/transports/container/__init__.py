"""The way into a container: commands and files, through its daemon's API."""
