"""Measuring between the nodes of a lab, and the table of what was measured."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pytest_benchscale import Lab
from pytest_benchscale.lab.process import Process

__all__ = ["Agent", "Probes", "Row", "Table", "agents", "probes_between", "rate_of", "until"]

_SOURCE = Path(__file__).with_name("agent.py").read_text()
_PORT = 5000
_START = 30.0  # seconds that an interpreter may take to start on an emulated processor
_ANSWER = 60.0
_TRIES = 4
_PLACE = "/root/agent.py"

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    declared: str
    measured: str
    allowed: str = ""


@dataclass
class Table:
    """What was declared beside what was measured."""

    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, declared: str, measured: str, allowed: str = "") -> None:
        """Add a line, which is printed at the end of the run."""
        self.rows.append(Row(what, declared, measured, allowed))

    def lines(self) -> list[str]:
        """Return the table as text."""
        rows = [Row("figure", "declared", "measured", "allowed"), *self.rows]
        cells = [(row.what, row.declared, row.measured, row.allowed) for row in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        return [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]


class Agent:
    """What measures in one node: `agent.py`, which answers jobs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def answer(self) -> Any:
        """Wait for the answer to the last job."""
        line = await anext(self._process.stdout, None)
        if line is None:
            raise AssertionError(
                f"the agent ended: {[text async for text in self._process.stderr]}"
            )
        return json.loads(line)

    async def ask(self, job: str, **arguments: Any) -> Any:
        """Give a job and wait for its answer."""
        await self._process.write(json.dumps({"job": job, **arguments}) + "\n")
        async with asyncio.timeout(_ANSWER):
            return await self.answer()

    async def trips(
        self, address: str, count: int = 20, interval: float = 0.01, timeout: float = 2.0
    ) -> list[float]:
        """Return the round trips in ms of the echo requests that were answered."""
        # The first one also waits for the neighbour's address to be found.
        await self.ask("echo", address=address, count=1, interval=0, timeout=timeout)
        found = await self.ask(
            "echo", address=address, count=count, interval=interval, timeout=timeout
        )
        return [trip for trip in found if trip is not None]

    async def median_trip(self, address: str, limit: float = 1.5) -> float:
        """Return the median of 20 round trips, in ms; all must have been answered.

        Measured again while it is above `limit`, see `until`.
        """

        async def measure() -> float:
            trips = await self.trips(address)
            assert len(trips) == 20, f"{len(trips)} of 20 were answered"
            return statistics.median(trips)

        return await until(measure, lambda median: median <= limit)


async def until(measure: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Measure a few times at most, until it is good; return the last result.

    An emulated processor that has to wait for a real one makes everything late now and then, and nothing
    early. What is wrong stays wrong.
    """
    for _ in range(_TRIES - 1):
        found = await measure()
        if good(found):
            return found
    return await measure()


@asynccontextmanager
async def agents(lab: Lab, *names: str) -> AsyncIterator[list[Agent]]:
    """Have agents in nodes."""
    async with AsyncExitStack() as stack:
        for name in names:
            await lab[name].write_text(_PLACE, _SOURCE)
        processes = [
            await stack.enter_async_context(
                lab[name].process(["python3", "-u", _PLACE], stdin=True)
            )
            for name in names
        ]
        found = [Agent(process) for process in processes]
        for agent in found:
            async with asyncio.timeout(_START):
                assert await agent.answer() == "ready"
        yield found


@dataclass(frozen=True)
class Probes:
    """What became of probes that were sent one way."""

    sent: Sequence[float]  # times, in seconds since 1970
    arrivals: Sequence[tuple[int, float, bool]]  # number, delay in ms, intact; as they arrived

    @property
    def delays(self) -> list[float]:
        """The delays of those that arrived, in ms."""
        return [delay for _, delay, intact in self.arrivals if intact]

    @property
    def lost(self) -> float:
        """The share that never arrived, in percent."""
        arrived = {number for number, _, _ in self.arrivals}
        return 100 * (1 - len(arrived) / len(self.sent))

    @property
    def twice(self) -> float:
        """The share of what was sent that arrived once more, in percent."""
        numbers = [number for number, _, _ in self.arrivals]
        return 100 * (len(numbers) - len(set(numbers))) / len(self.sent)

    @property
    def corrupt(self) -> float:
        """The share of what was sent that arrived with something changed, in percent."""
        return 100 * sum(not intact for _, _, intact in self.arrivals) / len(self.sent)

    @property
    def overtook(self) -> float:
        """The share of what was sent that arrived before one that was sent earlier, in percent."""
        numbers = [number for number, _, _ in self.arrivals]
        ahead = sum(
            any(later < number for later in numbers[i + 1 : i + 100])
            for i, number in enumerate(numbers)
        )
        return 100 * ahead / len(self.sent)


async def probes_between(
    sender: Agent,
    receiver: Agent,
    address: str,
    *,
    count: int = 200,
    interval: float = 0.004,
    size: int = 64,
    quiet: float = 0.3,
) -> Probes:
    """Send probes to an address of the receiver; they are all there when none came for `quiet` s."""
    port = next_port()
    await receiver.ask("listen", name=str(port), kind="probes", address=address, port=port)
    flow = {"address": address, "port": port, "interval": interval, "size": size}
    await sender.ask("probe", flows=[{**flow, "count": 1, "interval": 0}])  # finds the neighbour
    await receiver.ask("report", names=[str(port)], quiet=quiet)
    (sent,) = await sender.ask("probe", flows=[{**flow, "count": count}])
    (arrivals,) = await receiver.ask("report", names=[str(port)], quiet=quiet)
    return Probes(sent, [tuple(arrival) for arrival in arrivals])


_ports = iter(range(_PORT, 60_000))


def next_port() -> int:
    """Return a port that no measurement used before."""
    return next(_ports)


def rate_of(bins: Iterable[Sequence[float]], skip: float) -> float:
    """Return bit/s of payload between `skip` seconds after the first byte, and the last one."""
    points = list(bins)
    assert points, "nothing arrived"
    counted = [point for point in points if point[0] >= points[0][0] + skip]
    assert len(counted) > 2, f"what arrived took {points[-1][0] - points[0][0]:.2f} s"
    seconds = counted[-1][0] - counted[0][0]
    return 8 * sum(amount for _, amount in counted[:-1]) / seconds
