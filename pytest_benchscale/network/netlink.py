"""Links, addresses and routes through rtnetlink, with one system call for a whole batch.

Message layouts: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

_NLMSG_ERROR = 2
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 17, 18, 20, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_CREATE = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_NET_NS_FD = 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_BR_MCAST_SNOOPING = 23
_VETH_INFO_PEER = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_GATEWAY = 1, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 4, 0, 1
_NLA_F_NESTED = 0x8000
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SENT_AT_ONCE = 64 * 1024  # byte: well below what a socket's buffer takes
_IFF_UP = 0x1

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")


def attribute(kind: int, payload: bytes) -> bytes:
    """Return a netlink attribute."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def text(kind: int, value: str) -> bytes:
    """Return an attribute that is a string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute that is an unsigned number of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that consists of others."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


class Netlink:
    """A conversation with the kernel about the network namespace in which it was opened.

    Requests gather until `flush`, which sends them as one and raises for the first that failed.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # no request within its answer
        self._batch: list[tuple[bytes, str]] = []
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def add_bridge(self, name: str) -> None:
        """Create a bridge. No snooping: neighbour discovery must not wait for a querier."""
        no_snooping = attribute(_IFLA_BR_MCAST_SNOOPING, b"\0")
        kind = nested(
            _IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"), nested(_IFLA_INFO_DATA, no_snooping)
        )
        self._link(_RTM_NEWLINK, _CREATE, f"bridge {name}", text(_IFLA_IFNAME, name) + kind)

    def add_veth(
        self,
        name: str,
        *,
        master: int,
        peer: str,
        peer_mac: str,
        peer_namespace: int,
        mtu: int | None = None,
    ) -> None:
        """Create a veth pair in one message: this end on a bridge, the other in a namespace (fd)."""
        size = b"" if mtu is None else number(_IFLA_MTU, mtu)
        other_end = (
            _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            + text(_IFLA_IFNAME, peer)
            + attribute(_IFLA_ADDRESS, bytes.fromhex(peer_mac.replace(":", "")))
            + number(_IFLA_NET_NS_FD, peer_namespace)
            + size
        )
        kind = nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth"),
            nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other_end)),
        )
        attributes = text(_IFLA_IFNAME, name) + number(_IFLA_MASTER, master) + size + kind
        self._link(_RTM_NEWLINK, _CREATE, f"link {name}", attributes)

    def add_ifb(self, name: str) -> None:
        """Create an intermediate functional block."""
        kind = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "ifb"))
        self._link(_RTM_NEWLINK, _CREATE, f"link {name}", text(_IFLA_IFNAME, name) + kind)

    def set_up(self, name: str, *, up: bool = True) -> None:
        """Bring a link up, or down. A veth cannot be created up: some kernels answer ENOTCONN."""
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        what = f"{name} {'up' if up else 'down'}"
        self._link(_RTM_NEWLINK, flags, what, text(_IFLA_IFNAME, name), up=up)

    def rename(self, name: str, new_name: str) -> None:
        """Give a link that is down another name; there need be none: then it fails with ENODEV."""
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            index = 0x7FFFFFFF  # which no link has
        header = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        what = f"{name} renamed {new_name}"
        self.queue(_RTM_NEWLINK, flags, header + text(_IFLA_IFNAME, new_name), what)

    def delete_link(self, name: str) -> None:
        """Delete a link; of a veth, both ends."""
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        self._link(_RTM_DELLINK, flags, f"deletion of {name}", text(_IFLA_IFNAME, name))

    def add_address(self, index: int, address: str) -> None:
        """Give a link an address with prefix length; without duplicate address detection."""
        family, packed, prefix = _parse(address)
        body = struct.pack("=BBBBI", family, prefix, 0, 0, index)
        body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        body += number(_IFA_FLAGS, _IFA_F_NODAD)
        self.queue(_RTM_NEWADDR, _CREATE, body, f"address {address}")

    def add_route(self, destination: str, via: str) -> None:
        """Add a route through a gateway that is on one of the links."""
        family, packed, prefix = _parse(destination)
        table = (_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST)
        body = struct.pack("=BBBBBBBBI", family, prefix, 0, 0, *table, 0)
        if prefix:
            body += attribute(_RTA_DST, packed)
        body += attribute(_RTA_GATEWAY, _parse(f"{via}/0")[1])
        self.queue(_RTM_NEWROUTE, _CREATE, body, f"route {destination} via {via}")

    def flush(self) -> None:
        """Send what has gathered and wait for the kernel's answer to each.

        Raises:
            OSError: the first request that failed, with what it was about.
        """
        if failures := self.settle():
            raise failures[min(failures)]

    def settle(self) -> dict[int, OSError]:
        """Do as `flush`, but return the failures, by the place of the request in the batch."""
        batch, self._batch = self._batch, []
        failures: dict[int, OSError] = {}
        done = 0
        while done < len(batch):
            count, size = 0, 0
            for message, _ in batch[done:]:
                size += len(message)
                if count and size > _SENT_AT_ONCE:
                    break
                count += 1
            part = batch[done : done + count]
            for place, code in self._exchange([message for message, _ in part]).items():
                failures[done + place] = OSError(code, os.strerror(code), part[place][1])
            done += count
        return failures

    def index_of(self, name: str) -> int:
        """Return the index of a link in this socket's namespace, whichever the calling thread's is.

        Raises:
            OSError: there is none of that name (ENODEV).
        """
        self.flush()
        self._sequence += 1
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
        header = _HEADER.pack(
            _HEADER.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST, self._sequence, 0
        )
        self._socket.send(header + body)
        for kind, _, payload in _messages(self._socket.recv(65536)):
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                raise OSError(code, os.strerror(code), f"link {name}")
            if kind == _RTM_NEWLINK:
                return int(_IFINFO.unpack_from(payload)[2])
        raise OSError(errno.EBADMSG, "the kernel answered something else", f"link {name}")

    def _exchange(self, messages: list[bytes]) -> dict[int, int]:
        """Send messages and read the answer to each; return the errno of each that failed."""
        self._socket.send(b"".join(messages))
        first = _HEADER.unpack_from(messages[0])[3]
        failures: dict[int, int] = {}
        answered = 0
        while answered < len(messages):
            for kind, sequence, payload in _messages(self._socket.recv(65536)):
                if kind != _NLMSG_ERROR:
                    continue
                answered += 1
                if code := -struct.unpack_from("=i", payload)[0]:
                    failures[sequence - first] = code
        return failures

    def _link(
        self, kind: int, flags: int, what: str, attributes: bytes, *, up: bool | None = None
    ) -> None:
        """Queue a message about a link; `up` None leaves its state as it is."""
        change = 0 if up is None else _IFF_UP
        header = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, change if up else 0, change)
        self.queue(kind, flags, header + attributes, what)

    def queue(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """Add a request to the batch; `what` is told with its failure."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._batch.append((header + body + bytes(-len(body) % 4), what))


def configure(devices: Iterable[tuple[str, str]], routes: Iterable[tuple[str, str]]) -> None:
    """Bring devices of the calling thread's network namespace up, with an address each, and add routes.

    Addresses are written with their prefix length; a route is a destination and the gateway to it.

    Raises:
        OSError: the kernel refuses.
    """
    netlink = Netlink()
    try:
        netlink.set_up("lo")
        for device, address in devices:
            netlink.set_up(device)
            netlink.add_address(socket.if_nametoindex(device), address)
        for destination, via in routes:
            netlink.add_route(destination, via)
        netlink.flush()
    finally:
        netlink.close()


def _parse(address: str) -> tuple[int, bytes, int]:
    """Return family, packed address and prefix length of `address/length`."""
    host, _, prefix = address.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.inet_pton(family, host), int(prefix)


def _messages(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            raise OSError(errno.EBADMSG, "the kernel sent a malformed netlink message")
        found.append((kind, sequence, data[offset + _HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return found
