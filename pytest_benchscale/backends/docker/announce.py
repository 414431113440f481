"""A node that is back tells its neighbours.

Who tried to reach it meanwhile has asked for its link address in vain, and fails for up to three seconds
before it asks again (Linux, `mcast_solicit` x `retrans_time_ms`). One packet on each network spares it that.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan
from pytest_benchscale.backends.docker.inside import inside

__all__ = ["announce"]

_ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_ALL_NODES = "ff02::1"
_NEIGHBOUR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_ADDRESS = 136, 0x20000000, 2  # RFC 4861


async def announce(pid: int, interfaces: Iterable[InterfacePlan]) -> None:
    """Tell the neighbours of a process's network namespace where its addresses are. Needs root.

    Raises:
        OSError: the kernel refuses, or the process is gone.
    """
    await to_thread.run_sync(inside, pid, functools.partial(_announce, tuple(interfaces)))


def _announce(interfaces: Iterable[InterfacePlan]) -> None:
    for interface in interfaces:
        address = interface.address.ip
        if isinstance(address, IPv4Address):
            _announce_ipv4(interface.device, address)
        else:
            _announce_ipv6(interface.device, address)


def _announce_ipv4(device: str, address: IPv4Address) -> None:
    """Send a gratuitous ARP request (RFC 5227, an ARP announcement)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((device, _ETH_P_ARP))
        mac = link.getsockname()[4]
        ethernet = _BROADCAST + mac + _ETH_P_ARP.to_bytes(2, "big")
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        link.send(ethernet + request + mac + address.packed + bytes(6) + address.packed)


def _announce_ipv6(device: str, address: IPv6Address) -> None:
    """Send an unsolicited neighbour advertisement."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((device, _ETH_P_ARP))
        mac = link.getsockname()[4]
    index = socket.if_nametoindex(device)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as link:
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        message = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE)
        option = struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + mac
        link.sendto(message + address.packed + option, (_ALL_NODES, 0, 0, index))
