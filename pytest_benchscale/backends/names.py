"""The files by which a node resolves names, where no name server of its network does."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["NO_RESOLVER", "hosts_file"]

NO_RESOLVER = "# This network has no name server; the names of the nodes are in /etc/hosts.\n"
"""The text of /etc/resolv.conf."""

_LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def hosts_file(hosts: Mapping[str, tuple[IpAddress, ...]]) -> str:
    """Return the text of /etc/hosts for the addresses by which a node reaches the others."""
    lines = [f"{address} {name}" for name, addresses in hosts.items() for address in addresses]
    return _LOCALHOST + "\n".join(lines) + "\n"
