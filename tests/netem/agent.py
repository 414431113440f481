"""What measures inside of a node: its text is handed to the interpreter there. Standard library only.

Each line of its standard input is a job, `{"job": name, ...}`, and is answered with one line. Receivers run
in threads from `listen` on; delays are taken from the kernel's time of arrival, since all nodes of a
lab have one clock.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from typing import Any

HEAD = struct.Struct("!Iq")  # number of the probe, time of sending in nanoseconds
PAD = b"\x55"
SO_NO_CHECK, SO_TIMESTAMPNS, UDP_SEGMENT, UDP_GRO = 11, 35, 103, 104
TIMESPEC = struct.Struct("@qq")
BIN = 0.05  # seconds: how finely bulk traffic is told
FULL = 1472  # byte of payload in a full frame of UDP over IPv4

arrivals: dict[str, list[Any]] = {}
newest: dict[str, float] = {}


def main() -> None:
    """Answer jobs until the input ends."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(JOBS[job.pop("job")](**job)), flush=True)


def listen(name: str, kind: str, address: str, port: int) -> bool:
    """Receive from now on: single `probes`, or `bulk` over UDP or `tcp`, of which only amounts are kept."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    tcp = kind == "tcp"
    server = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not tcp:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if kind == "probes":
        server.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if kind == "bulk":
        server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    server.bind((address, port))
    if tcp:
        server.listen()
    arrivals[name] = []
    receiver = {"probes": receive_probes, "bulk": receive_bulk, "tcp": receive_stream}[kind]
    threading.Thread(target=receiver, args=(name, server), daemon=True).start()
    return True


def receive_probes(name: str, server: socket.socket) -> None:
    """Keep number, delay in ms and whether it is intact, of each probe in the order of arrival."""
    while True:
        data, extra, _, _ = server.recvmsg(2048, 64)
        arrived = next(
            TIMESPEC.unpack(value[:16]) for _, kind, value in extra if kind == SO_TIMESTAMPNS
        )
        number, sent = HEAD.unpack_from(data)
        intact = not data[HEAD.size :].strip(PAD)
        delay = (arrived[0] * 10**9 + arrived[1] - sent) / 1e6
        arrivals[name].append((number, delay, intact))
        newest[name] = time.monotonic()


def receive_bulk(name: str, server: socket.socket) -> None:
    """Keep how many bytes arrived in each bin of time."""
    buffer = bytearray(1 << 16)
    while True:
        add(name, server.recv_into(buffer))


def receive_stream(name: str, server: socket.socket) -> None:
    """Accept connection after connection, and keep how many bytes arrived in each bin of time."""
    buffer = bytearray(1 << 18)
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            while count := connection.recv_into(buffer):
                add(name, count)


def add(name: str, count: int) -> None:
    """Count bytes that arrived now."""
    now = time.monotonic()
    bins = arrivals[name]
    if bins and now - bins[-1][0] < BIN:
        bins[-1][1] += count
    else:
        bins.append([now, count])
    newest[name] = now


def probe(flows: list[dict[str, Any]]) -> list[list[float]]:
    """Send `count` probes of `size` byte every `interval` seconds to each of the flows' addresses.

    Returns the time at which each was sent, for each flow.
    """
    begin = time.monotonic()
    plan = sorted(
        (begin + i * flow["interval"], n, i)
        for n, flow in enumerate(flows)
        for i in range(flow["count"])
    )
    sockets = [sender(flow["address"], flow["port"]) for flow in flows]
    times: list[list[float]] = [[] for _ in flows]
    for when, n, number in plan:
        if (pause := when - time.monotonic()) > 0:
            time.sleep(pause)
        now = time.time_ns()
        sockets[n].send(HEAD.pack(number, now) + PAD * (flows[n].get("size", 64) - HEAD.size))
        times[n].append(now / 1e9)
    return times


def sender(address: str, port: int) -> socket.socket:
    """Return a UDP socket; over IPv4 without checksum, so that what is corrupt arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        connection.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    connection.connect((address, port))
    return connection


def offer(flows: list[dict[str, Any]], seconds: float) -> bool:
    """Send full datagrams to each of the flows' addresses, `rate` bit/s of them."""
    threads = [threading.Thread(target=offer_one, args=(flow, seconds)) for flow in flows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return True


def offer_one(flow: dict[str, Any], seconds: float) -> None:
    """Send several datagrams at once where the rate is high: an emulated processor manages no other way."""
    at_once = max(1, min(40, int(flow["rate"] * 0.004 / 8 / FULL)))
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, FULL)
    connection.connect((flow["address"], flow["port"]))
    datagrams = PAD * (FULL * at_once)
    step = at_once * (FULL + 42) * 8 / flow["rate"]
    due = time.monotonic()
    end = due + seconds
    while due < end:
        if (pause := due - time.monotonic()) > 0:
            time.sleep(pause)
        connection.send(datagrams)
        due += step


def stream(flows: list[dict[str, Any]], seconds: float) -> bool:
    """Send as much as goes through a TCP connection to each of the flows' addresses."""
    threads = [threading.Thread(target=stream_one, args=(flow, seconds)) for flow in flows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return True


def stream_one(flow: dict[str, Any], seconds: float) -> None:
    """Send without a pause, and cut the connection off: what is queued by then does not count."""
    data = bytes(1 << 16)
    with socket.create_connection((flow["address"], flow["port"]), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.settimeout(0.2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                connection.send(data)


def report(names: list[str], quiet: float) -> list[list[Any]]:
    """Return what arrived, once nothing has come in for `quiet` seconds, and forget it."""
    begin = time.monotonic()
    while (
        left := max(begin, *(newest.get(name, 0.0) for name in names)) + quiet - time.monotonic()
    ) > 0:
        time.sleep(left)
    found = [arrivals[name][:] for name in names]
    for name in names:
        arrivals[name].clear()
    return found


def echo(address: str, count: int, interval: float, timeout: float) -> list[float | None]:
    """Send ICMP echo requests, one after the other; return each round trip in ms, None for no answer."""
    six = ":" in address
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    trips: list[float | None] = []
    with socket.socket(family, socket.SOCK_RAW, protocol) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        connection.connect((address, 0))
        for number in range(count):
            sent = time.time_ns()
            connection.send(request(number, six=six))
            trips.append(answer(connection, number, sent, timeout, six=six))
            time.sleep(interval)
    return trips


def request(number: int, *, six: bool) -> bytes:
    """Return an echo request; for IPv6 the kernel computes the checksum."""
    body = struct.pack("!HH", 0xBE, number) + PAD * 48
    if six:
        return struct.pack("!BBH", 128, 0, 0) + body
    total = sum(struct.unpack(f"!{len(body) // 2}H", body)) + 0x0800
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!BBH", 8, 0, ~total & 0xFFFF) + body


def answer(
    connection: socket.socket, number: int, sent: int, timeout: float, *, six: bool
) -> float | None:
    """Wait for the answer to one request; return the round trip in ms."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            data, extra, _, _ = connection.recvmsg(2048, 64)
        except TimeoutError:
            break
        message = data if six else data[20:]
        if message[0] == (129 if six else 0) and message[4:8] == struct.pack("!HH", 0xBE, number):
            seconds, nanoseconds = TIMESPEC.unpack(extra[0][2][:16])
            trip: float = (seconds * 10**9 + nanoseconds - sent) / 1e6
            return trip
    return None


JOBS = {function.__name__: function for function in (listen, probe, offer, stream, report, echo)}

if __name__ == "__main__":
    main()
