"""The network devices of a container: found by what the plan says of them, and given its MACs."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pytest_benchscale.backends.base import InterfacePlan
from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["find", "settle"]

_SIOCGIFADDR, _SIOCGIFHWADDR, _SIOCSIFHWADDR = 0x8915, 0x8927, 0x8924  # linux/sockios.h
_ETHERNET = 1  # linux/if_arp.h
_IFREQ = struct.Struct("16s24s")
_DEVICES = Path("/proc/thread-self/net/dev")
_ADDRESSES_OF_IPV6 = Path("/proc/thread-self/net/if_inet6")


def find(interfaces: Iterable[InterfacePlan]) -> dict[str, str]:
    """Return, by network, the devices in the network namespace of the calling thread.

    By MAC; by address where the daemon gives MACs as it likes, as Docker before 25 does from the second
    network on. So this is also the proof that the namespace is the node's.

    Raises:
        OSError: one is not there (ENODEV).
    """
    by_mac, by_address = _present()
    found = {}
    for one in interfaces:
        device = by_mac.get(one.mac) or by_address.get(one.address.ip)
        if device is None:
            raise OSError(
                errno.ENODEV, os.strerror(errno.ENODEV), f"{one.mac}, {one.address} ({one.network})"
            )
        found[one.network] = device
    return found


def settle(interfaces: Iterable[InterfacePlan]) -> bool:
    """Give devices of the calling thread's network namespace the planned MACs; return whether any changed.

    What a node sends is told from others' by that, whichever address it has besides the planned one.

    Raises:
        OSError: a device is not there, or the kernel refuses.
    """
    wanted = tuple(interfaces)
    found = find(wanted)
    changed = False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for one in wanted:
            device = found[one.network]
            if _asked(asker, _SIOCGIFHWADDR, device)[2:8].hex(":") == one.mac:
                continue
            mac = struct.pack("=H6s", _ETHERNET, bytes.fromhex(one.mac.replace(":", "")))
            fcntl.ioctl(asker, _SIOCSIFHWADDR, _IFREQ.pack(device.encode(), mac))
            changed = True
    return changed


def _present() -> tuple[dict[str, str], dict[IpAddress, str]]:
    by_mac: dict[str, str] = {}
    by_address: dict[IpAddress, str] = dict(_of_ipv6())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for name in _names():
            by_mac[_asked(asker, _SIOCGIFHWADDR, name)[2:8].hex(":")] = name
            try:
                answer = _asked(asker, _SIOCGIFADDR, name)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
            else:
                by_address[IPv4Address(answer[4:8])] = name
    return by_mac, by_address


def _names() -> Iterator[str]:
    # Not by `socket.if_nameindex`, which has all threads wait while it waits for the kernel.
    for line in _DEVICES.read_text().splitlines()[2:]:
        yield line.partition(":")[0].strip()


def _asked(asker: socket.socket, request: int, name: str) -> bytes:
    """Return the `struct sockaddr` that a request about a device brings."""
    answer: bytes = fcntl.ioctl(asker, request, _IFREQ.pack(name.encode(), b""))
    return answer[16:]


def _of_ipv6() -> Iterator[tuple[IPv6Address, str]]:
    if not _ADDRESSES_OF_IPV6.exists():  # a kernel without IPv6
        return
    for line in _ADDRESSES_OF_IPV6.read_text().splitlines():
        address, *_, name = line.split()
        yield IPv6Address(bytes.fromhex(address)), name
