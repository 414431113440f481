"""Probes between nodes: who reaches whom, how fast, and how much is lost on the way."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import anyio
from anyio import to_thread

from pytest_benchscale.errors import LabError
from pytest_benchscale.network import neighbours
from pytest_benchscale.network.matrix import Matrix, PathMeasure
from pytest_benchscale.network.prober import Prober
from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["Echoes", "Path", "SocketEchoes", "Timing", "measure"]


class Path(NamedTuple):
    """From one node to another, by the address by which it reaches it."""

    source: str
    destination: str
    address: IpAddress


@dataclass(frozen=True, slots=True)
class Timing:
    """How many requests each path gets, `interval` s apart; how long after the last one answers count."""

    count: int
    interval: float
    patience: float


class Echoes(Protocol):
    """The way to send and answer probes from within one running node's network, for one measurement."""

    @classmethod
    async def together(
        cls, stations: Mapping[str, Self], paths: Sequence[Path], timing: Timing
    ) -> Sequence[PathMeasure]:
        """Measure paths; their sources are among these stations of one kind, all at once.

        What arrives at a destination that is not is not seen.

        Raises:
            LabError: a node has not what it takes.
        """
        ...

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        ...


async def measure(
    stations: Mapping[str, Echoes | None],
    paths: Sequence[Path],
    *,
    count: int,
    interval: float,
    patience: float,
    nodes: Sequence[str] = (),
) -> Matrix:
    """Send `count` requests along each path and see what becomes of them.

    A node that is not among the stations is down: nothing is sent from or to it. One with None cannot
    send, but may answer. `nodes` are those of the matrix, also without paths. Times are in seconds; done as
    soon as all is answered, else `patience` after the last request.

    Raises:
        LabError: a node has not what it takes.
    """
    timing = Timing(count, interval, patience)
    kinds: dict[type[Echoes], dict[str, Echoes]] = {}
    for name, echoes in stations.items():
        if echoes is not None:
            kinds.setdefault(type(echoes), {})[name] = echoes
    found: dict[tuple[str, str], PathMeasure] = {}
    for kind, crew in kinds.items():
        theirs = [path for path in paths if path.source in crew and path.destination in stations]
        for one in await kind.together(crew, theirs, timing):
            found[one.source, one.destination] = one
    measures = (found.get((path.source, path.destination)) or _down(path) for path in paths)
    return Matrix(nodes or _nodes(paths), measures)


def _nodes(paths: Iterable[Path]) -> list[str]:
    return list(dict.fromkeys(name for path in paths for name in (path.source, path.destination)))


def _down(path: Path) -> PathMeasure:
    return PathMeasure(path.source, path.destination, str(path.address), 0, 0, 0)


class SocketEchoes:
    """Raw sockets in a node's network namespace (`prober.open_sockets`); it owns them."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets

    @classmethod
    async def together(
        cls, stations: Mapping[str, Self], paths: Sequence[Path], timing: Timing
    ) -> Sequence[PathMeasure]:
        """Measure paths with one loop for all sockets, in a thread that nothing else holds up.

        Raises:
            LabError: the kernel has no room for so many neighbours, so that what was measured is not so.
        """
        prober = Prober(
            os.urandom(8),
            {name: one._sockets for name, one in stations.items()},  # noqa: SLF001  of this class
            {number: (path.source, str(path.address)) for number, path in enumerate(paths)},
        )
        before = neighbours.overflows()
        stop, tell = os.pipe2(os.O_CLOEXEC)
        try:
            await _in_a_thread(prober, timing, stop, tell)
        finally:
            os.close(stop)
            os.close(tell)
        measured = [
            _measured(prober, number, path, timing.count, seen=path.destination in stations)
            for number, path in enumerate(paths)
        ]
        if any(not one.reached for one in measured) and neighbours.overflows() > before:
            raise _no_room(len(paths))
        return measured

    def close(self) -> None:
        """Close the sockets."""
        for one in self._sockets:
            one.close()


async def _in_a_thread(prober: Prober, timing: Timing, stop: int, tell: int) -> None:
    """Run a prober; a cancellation ends its loop at once, and waits for that."""

    def work() -> None:
        prober.run(stop, count=timing.count, interval=timing.interval, patience=timing.patience)

    limiter = anyio.CapacityLimiter(1)  # its own: never behind what else works in threads
    task = asyncio.ensure_future(to_thread.run_sync(work, limiter=limiter))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        os.write(tell, b".")
        with anyio.CancelScope(shield=True):
            await task
        raise


def _no_room(paths: int) -> LabError:
    limit = neighbours.LIMIT.read_text().strip() if neighbours.LIMIT.exists() else "few"
    return LabError(
        f"{paths} paths at once cannot be measured: the kernel's table of neighbours is full",
        step="probe",
        details=f"it has room for {limit}, of all nodes on this machine together, and each path needs one",
        resolution="measure fewer at a time, or raise the sysctl net.ipv4.neigh.default.gc_thresh3 (and "
        "that of net.ipv6)",
    )


def _measured(prober: Prober, number: int, path: Path, count: int, *, seen: bool) -> PathMeasure:
    arrivals = prober.arrivals.get((path.destination, number), {})
    departures = prober.departures
    answers = prober.answers[number].values()
    return PathMeasure(
        source=path.source,
        destination=path.destination,
        address=str(path.address),
        sent=count,
        delivered=len(arrivals) if seen else None,
        answered=len(answers),
        rtts_ms=tuple(seconds * 1000 for seconds in answers),
        delays_ms=tuple(
            (when - departures[number, one]) * 1000
            for one, when in arrivals.items()
            if (number, one) in departures
        ),
    )
