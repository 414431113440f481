"""Routing tables as Linux shows them in /proc/net/route and /proc/net/ipv6_route."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pytest_benchscale.topology.addressing import IpAddress, IpNetwork

__all__ = ["KernelRoute", "parse_ipv4", "parse_ipv6", "read"]

_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200  # linux/route.h


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of the main table; `via` is None where there is no gateway."""

    destination: IpNetwork
    via: IpAddress | None
    device: str


def read(directory: Path = Path("/proc/net")) -> list[KernelRoute]:
    """Return the routes of a network namespace; a kernel without IPv6 has none of that.

    Raises:
        OSError: the tables cannot be read.
    """
    routes = parse_ipv4((directory / "route").read_text())
    with suppress(FileNotFoundError):
        routes += parse_ipv6((directory / "ipv6_route").read_text())
    return routes


def parse_ipv4(table: str) -> list[KernelRoute]:
    """Parse "Iface Destination Gateway Flags RefCnt Use Metric Mask ...", numbers in the CPU's byte order."""
    routes = []
    for line in table.splitlines()[1:]:
        device, destination, gateway, flags, *_, mask, _mtu, _window, _irtt = line.split()
        if not int(flags, 16) & _UP or int(flags, 16) & _REJECT:
            continue
        network = IPv4Network((_ipv4(destination), str(_ipv4(mask))))
        via = _ipv4(gateway) if int(flags, 16) & _GATEWAY else None
        routes.append(KernelRoute(network, via, device))
    return routes


def parse_ipv6(table: str) -> list[KernelRoute]:
    """Parse "DESTINATION LENGTH SOURCE LENGTH GATEWAY METRIC REFCNT USE FLAGS DEVICE".

    What every machine has is left out: its own addresses, link-local and multicast networks.
    """
    routes = []
    for line in table.splitlines():
        destination, length, _, _, gateway, _, _, _, flags, device = line.split()
        network = IPv6Network((bytes.fromhex(destination), int(length, 16)))
        if not int(flags, 16) & _UP or int(flags, 16) & _REJECT or device == "lo":
            continue
        if network.is_link_local or network.is_multicast or network.prefixlen == 128:
            continue
        via = IPv6Address(bytes.fromhex(gateway)) if int(flags, 16) & _GATEWAY else None
        routes.append(KernelRoute(network, via, device))
    return routes


def _ipv4(number: str) -> IPv4Address:
    return IPv4Address(int(number, 16).to_bytes(4, sys.byteorder))
