"""Measuring how fast TCP gets data from one node to another, for the tests of rates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import MIB, Contract

__all__ = ["RateContract"]

SINK = """
import socket, time
listener = socket.create_server(("", 7500))
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    with client:
        begun, count = None, 0
        while data := client.recv(65536):
            begun = begun or time.monotonic()
            count += len(data)
        client.sendall(b"%d" % (count * 8 / (time.monotonic() - begun) / 1000))
"""

SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7500), timeout=60) as sink:
    sink.sendall(bytes(int(sys.argv[2])))
    sink.shutdown(socket.SHUT_WR)
    print(sink.recv(100).decode())
"""


class RateContract(Contract):
    """For parts of the contract that measure rates."""

    @asynccontextmanager
    async def _sink(self, node: Node) -> AsyncIterator[None]:
        """Have a server in the node that takes whatever is sent, and answers how fast it came."""
        async with node.process(self.program(SINK)) as sink:
            await sink.wait_for_line("ready", timeout=20)
            yield

    async def _keeps_rate(self, source: Node, sink: Node, kbps: int, *, rel: float) -> None:
        """Check that data passes at a rate: never faster, and as fast at least once in three times.

        What stands still for a moment, such as a busy machine, only makes it slower.
        """
        rates = []
        for _ in range(3):
            rates.append(await self._rate(source, sink))
            assert rates[-1] <= kbps * (1 + rel)
            if rates[-1] >= kbps * (1 - rel):
                return
        raise AssertionError(f"{kbps} kbit/s were not reached: {rates}")

    async def _rate(self, source: Node, sink: Node) -> int:
        """Return how fast TCP gets data from a node to a sink, in kbit/s of payload."""
        program = self.program(SOURCE, sink.address, MIB)
        return int((await source.exec(program, check=True)).stdout)
