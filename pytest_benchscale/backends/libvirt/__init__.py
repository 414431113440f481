"""Nodes as virtual machines, through the libvirt API."""
