"""Echo requests over raw sockets, and how many of them arrive and are answered.

The kernel of a destination answers by itself; a raw socket there sees the requests, too, so that it is
known in which direction a path is cut. Sockets stay in the network namespace in which they were made: one
process can drive those of many nodes. The very text of this module is also run as a program inside nodes
that cannot be entered so. Therefore standard library only, and no newer Python than 3.7.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ICMP_REQUEST, _ICMP_REPLY = 8, 0
_ICMP6_REQUEST, _ICMP6_REPLY = 128, 129
_SOL_RAW = 255  # linux/socket.h
_ICMP_FILTER = 1  # linux/icmp.h; a set bit blocks a type
_ICMP6_FILTER = 1  # linux/icmpv6.h
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_MAGIC = b"\xbe\x9c\x5c\xa1"
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_BODY = struct.Struct("!4s8sII")  # magic, token, path, number
_TIMESPEC = struct.Struct("@ll")
_BUFFER_BYTES = 1 << 20
_SENT_AT_ONCE = 64  # packets between two looks at what has arrived: buffers are limited
_RETRY_SECONDS = 0.002


def open_sockets() -> list[socket.socket]:
    """Return raw sockets for IPv4 and IPv6 in this thread's network namespace; one, where the kernel has one.

    Raises:
        PermissionError: they are for root, or who has CAP_NET_RAW.
        OSError: there is neither.
    """
    opened: list[socket.socket] = []
    failure: OSError | None = None
    for family, protocol in (
        (socket.AF_INET, socket.IPPROTO_ICMP),
        (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    ):
        try:
            opened.append(_prepared(socket.socket(family, socket.SOCK_RAW, protocol)))
        except OSError as error:
            failure = error
    if failure is not None and (not opened or failure.errno != errno.EAFNOSUPPORT):
        for one in opened:
            one.close()
        raise failure
    return opened


def _prepared(sock: socket.socket) -> socket.socket:
    if sock.family == socket.AF_INET6:
        allowed = bytearray(b"\xff" * 32)
        for kind in (_ICMP6_REQUEST, _ICMP6_REPLY):
            word = struct.unpack_from("=I", allowed, kind // 32 * 4)[0] & ~(1 << kind % 32)
            struct.pack_into("=I", allowed, kind // 32 * 4, word)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(allowed))
    else:
        mask = ~(1 << _ICMP_REQUEST | 1 << _ICMP_REPLY) & 0xFFFFFFFF
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", mask))
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER_BYTES)
    sock.settimeout(0)
    return sock


def request(family: int, token: bytes, path: int, number: int) -> bytes:
    """Return an echo request. The kernel does the checksum of IPv6."""
    body = _BODY.pack(_MAGIC, token, path, number)
    identifier = int.from_bytes(token[:2], "big")
    kind = _ICMP6_REQUEST if family == socket.AF_INET6 else _ICMP_REQUEST
    header = _HEADER.pack(kind, 0, 0, identifier, number & 0xFFFF)
    if family == socket.AF_INET6:
        return header + body
    return header[:2] + struct.pack("!H", _checksum(header + body)) + header[4:] + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack("!%dH" % (len(data) // 2), data))  # noqa: UP031  quicker than f""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(family: int, packet: bytes, token: bytes) -> tuple[bool, int, int] | None:
    """Return whether a packet is an answer, its path and its number; None: it is not of this measurement."""
    start = 0 if family == socket.AF_INET6 else (packet[0] & 0xF) * 4
    if len(packet) < start + _HEADER.size + _BODY.size:
        return None
    magic, theirs, path, number = _BODY.unpack_from(packet, start + _HEADER.size)
    if magic != _MAGIC or theirs != token:
        return None
    return packet[start] in (_ICMP_REPLY, _ICMP6_REPLY), path, number


class Prober:
    """One measurement, from and at the sockets of some stations.

    `paths` are (source, address) by number, for the sources among the stations; all probers that take
    part number alike. What was seen is in `departures` ((path, number) -> when, in seconds of this machine's
    clock), `answers` (path -> number -> seconds there and back) and `arrivals` (path -> number -> when).
    """

    def __init__(
        self,
        token: bytes,
        stations: Mapping[str, Sequence[socket.socket]],
        paths: Mapping[int, tuple[str, str]],
    ) -> None:
        self._token = token
        self._paths = paths
        self._out = {(name, one.family): one for name, opened in stations.items() for one in opened}
        self._in = {one.fileno(): (name, one) for (name, _), one in self._out.items()}
        self._looked = dict.fromkeys(self._in, time.monotonic())
        self._pending: deque[tuple[int, int]] = deque()
        self._outstanding = 0
        self.departures: dict[tuple[int, int], float] = {}
        self.answers: dict[int, dict[int, float]] = {path: {} for path in paths}
        self.arrivals: dict[tuple[str, int], dict[int, float]] = {}

    def run(self, stop: int, *, count: int, interval: float, patience: float) -> bool:
        """Send `count` rounds of requests, `interval` s apart, and wait until all is answered.

        For at most `patience` s after the last round. Ends at once, with False, when the descriptor `stop`
        becomes readable.
        """
        poller = self._poller(stop)
        rounds, due, deadline = 0, time.monotonic(), float("inf")
        while True:
            now = time.monotonic()
            if rounds < count and now >= due:
                self._pending.extend((path, rounds) for path in self._paths)
                rounds, due = rounds + 1, due + interval
                if rounds == count:
                    deadline = now + patience
            stuck = self._send()
            if rounds == count and not (self._pending or self._outstanding):
                return True
            now = time.monotonic()
            if now >= deadline:
                return True
            wait = (due if rounds < count else deadline) - now
            if self._pending:
                wait = min(wait, _RETRY_SECONDS if stuck else 0)
            if not self._look(poller, stop, wait):
                return False

    def listen(self, stop: int) -> None:
        """Go on to take note of what arrives, until the descriptor `stop` becomes readable."""
        poller = self._poller(stop)
        while self._look(poller, stop, None):
            pass

    def _poller(self, stop: int) -> select.poll:
        poller = select.poll()
        for fd in (stop, *self._in):
            poller.register(fd, select.POLLIN)
        return poller

    def _look(self, poller: select.poll, stop: int, wait: float | None) -> bool:
        """Take what has arrived within `wait` seconds; False: `stop` is readable."""
        going = True
        for fd, _event in poller.poll(None if wait is None else max(0.0, wait) * 1000):
            if fd == stop:
                going = False
            else:
                self._drain(fd)
        return going

    def _send(self) -> bool:
        """Send some of what is pending; return whether a socket's buffer is full."""
        stuck = False
        for _ in range(min(len(self._pending), _SENT_AT_ONCE)):
            path, number = self._pending.popleft()
            try:
                self._send_one(path, number)
            except BlockingIOError:
                self._pending.append((path, number))
                stuck = True
            except OSError:
                pass  # there is no way to the address, which is what is to be found out
        return stuck

    def _send_one(self, path: int, number: int) -> None:
        source, address = self._paths[path]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._out.get((source, family))
        if sock is None:
            return
        packet = request(family, self._token, path, number)
        self.departures[path, number] = time.monotonic()
        try:
            sock.sendto(packet, (address, 0))
        except OSError:
            del self.departures[path, number]
            raise
        self._outstanding += 1

    def _drain(self, fd: int) -> None:
        """Take everything that has arrived at a socket."""
        name, sock = self._in[fd]
        while True:
            try:
                packet, ancillary, _flags, _sender = sock.recvmsg(256, 64)
            except BlockingIOError:
                break
            except OSError:
                continue  # what a packet of ours has met on its way: reading it clears it
            parsed = parse(sock.family, packet, self._token)
            if parsed is not None:
                self._take(name, parsed, self._arrival(fd, ancillary))
        self._looked[fd] = time.monotonic()

    def _take(self, station: str, parsed: tuple[bool, int, int], when: float) -> None:
        is_answer, path, number = parsed
        if not is_answer:
            self.arrivals.setdefault((station, path), {}).setdefault(number, when)
        elif (path, number) in self.departures and number not in self.answers[path]:
            self.answers[path][number] = when - self.departures[path, number]
            self._outstanding -= 1

    def _arrival(self, fd: int, ancillary: Sequence[tuple[int, int, bytes]]) -> float:
        """Return when a packet came to the kernel, which is before we got to read it.

        The kernel tells it by a clock that may be set meanwhile, so that only the age is taken from it, and
        never more of it than the time since there was nothing to read.
        """
        clock, now = time.time(), time.monotonic()  # in this order: rather too late than too early
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
                age: float = clock - (seconds + nanoseconds / 1e9)
                return min(now, max(now - age, self._looked[fd]))
        return now


class _Orders:
    """The lines of standard input, read so that `poll` tells whether there is another one."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno()
        self._received = b""

    def next(self) -> bytes:
        """Return the next line; empty: there is none any more."""
        while b"\n" not in self._received:
            data = os.read(self.fd, 1 << 16)
            if not data:
                return b""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def main() -> int:
    """Take part in measurements from within a node, one after the other, until standard input is closed.

    Each begins with an order, a line of JSON; the answer is `ready`, or why raw sockets are refused. After
    another line all is sent, and the answer is `sent` when all is answered or patience is over. What arrives
    is taken note of until the third line; the answer to that is what it was.
    """
    orders = _Orders()
    while True:
        line = orders.next()
        if not line:
            return 0
        order = json.loads(line)
        try:
            sockets = open_sockets()
        except OSError as error:
            _say({"refused": str(error)})
            return 0
        _say({"ready": True})
        if not orders.next():
            return 0
        report = _follow(order, sockets, orders.fd)
        for one in sockets:
            one.close()
        if not orders.next():
            return 0
        _say(report)


def _follow(order: Any, sockets: Sequence[socket.socket], stop: int) -> dict[str, Any]:
    paths = {int(path): ("", address) for path, address in order["paths"].items()}
    prober = Prober(bytes.fromhex(order["token"]), {"": sockets}, paths)
    timing = {name: order[name] for name in ("count", "interval", "patience")}
    if prober.run(stop, **timing):
        _say({"sent": True})
        prober.listen(stop)
    return {
        "rtts": {path: list(times.values()) for path, times in prober.answers.items()},
        "arrived": {path: len(times) for (_, path), times in prober.arrivals.items()},
    }


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
