"""Probes of machines whose network cannot be entered from here: a program in each sends and takes note.

It is the text of `network/prober.py`, for `python3`, and stays there for the next measurement: in an emulated
machine its start takes seconds. A machine without Python, or where raw sockets are not allowed, is left to
its `ping`, which knows of round trips only.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Self

import anyio

from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.network import ping, prober
from pytest_benchscale.network.echo import Path, Timing
from pytest_benchscale.network.matrix import PathMeasure
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command, Launcher, RunningCommand

__all__ = ["ProgramEchoes", "Programs"]

_START_SECONDS = 60.0  # an emulated machine may take long for it
_SLACK_SECONDS = 30.0
_PINGS_AT_ONCE = 10  # in one machine
_NOT_FOUND = 127
_GO = b"{}\n"
# Root may open raw sockets; who logs in as somebody else may be let be root.
_AS_ROOT = """\
command -v python3 >/dev/null || exit 127
[ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null || exec sudo -n python3 -c "$1"
exec python3 -c "$1"
"""


class Programs:
    """The programs in one run of a node, which measurements use one at a time.

    They end with the node, or when the way into it is closed. `why_not` says why there are none.
    """

    def __init__(self, node: str, launcher: Launcher) -> None:
        self.node = node
        self.launcher = launcher
        self.idle: list[_Program] = []
        self.why_not = ""

    @classmethod
    def of(cls, known: MutableMapping[str, Programs], node: str, launcher: Launcher) -> Programs:
        """Return those of a node as it runs now, reached by this launcher."""
        if node not in known or known[node].launcher is not launcher:
            known[node] = cls(node, launcher)
        return known[node]


class ProgramEchoes:
    """A node that can run programs."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs

    @classmethod
    async def together(
        cls, stations: Mapping[str, Self], paths: Sequence[Path], timing: Timing
    ) -> Sequence[PathMeasure]:
        """Measure paths: first everybody is ready, then all send, then all tell.

        Raises:
            LabError: a node has neither python3 nor ping, or its program failed.
        """
        runs = {name: _Run(one.programs, timing) for name, one in stations.items()}
        token = os.urandom(8).hex()
        for number, path in enumerate(paths):
            runs[path.source].paths[number] = path
        try:
            await _all(run.begin(token) for run in runs.values())
            await _all(run.send() for run in runs.values())
            await _all(run.finish() for run in runs.values())
        finally:
            with anyio.CancelScope(shield=True):
                await _all(run.aclose() for run in runs.values())
        return [_measured(runs, number, path, timing) for number, path in enumerate(paths)]

    def close(self) -> None:
        """Nothing is held that the next measurement does not use."""


class _Program:
    """One program in a node: it is told a line, and answers with one."""

    def __init__(self, running: RunningCommand) -> None:
        self._running = running
        self._received = b""

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Tell it a line and return its answer.

        Raises:
            _Ended: it has ended.
            NodeDied: the node has.
        """
        assert self._running.stdin is not None  # noqa: S101  it was started so
        with suppress(anyio.BrokenResourceError):  # what it says last tells why
            await self._running.stdin.send(line)
        while b"\n" not in self._received:
            try:
                self._received += await self._running.stdout.receive()
            except anyio.EndOfStream:
                raise _Ended(await self._running.wait(), await self._last_words()) from None
        answer, _, self._received = self._received.partition(b"\n")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    async def aclose(self) -> None:
        """Let it end, as it does when it is told nothing any more."""
        with suppress(OSError, BenchscaleError, anyio.BrokenResourceError):
            if self._running.stdin is not None:
                await self._running.stdin.aclose()
        with suppress(OSError, BenchscaleError):
            await self._running.aclose()

    async def _last_words(self) -> str:
        said = b""
        with suppress(anyio.EndOfStream):
            while True:
                said += await self._running.stderr.receive()
        return said.decode(errors="replace")


class _Ended(Exception):
    """A program has ended, with an exit code and these words on standard error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(code, words)
        self.code = code
        self.words = words


class _Run:
    """One node's part in one measurement. Of a node that ends meanwhile, `is_down` is set."""

    def __init__(self, programs: Programs, timing: Timing) -> None:
        self.paths: dict[int, Path] = {}
        self.rtts: dict[int, list[float]] = {}  # in ms
        self.arrived: dict[int, int] | None = None
        self.is_down = False
        self._programs = programs
        self._timing = timing
        self._program: _Program | None = None

    async def begin(self, token: str) -> None:
        """Have a program that is ready; or find out why there can be none."""
        if self._programs.why_not:
            return
        order = {
            "token": token,
            "paths": {number: str(path.address) for number, path in self.paths.items()},
            "count": self._timing.count,
            "interval": self._timing.interval,
            "patience": self._timing.patience,
        }
        line = json.dumps(order).encode() + b"\n"
        answer = await self._step(lambda: self._order(line), _START_SECONDS)
        if answer is not None and "refused" in answer:
            self._programs.why_not = f"raw sockets are refused there: {answer['refused']}"

    async def send(self) -> None:
        """Send all requests, and return when they are answered or patience is over."""
        timing = self._timing
        if self._programs.why_not:
            seconds = timing.count * max(timing.interval, 1.0) + timing.patience
            await self._step(self._ping_all, len(self.paths) * (seconds + _SLACK_SECONDS))
            return
        seconds = timing.count * timing.interval + timing.patience + _SLACK_SECONDS
        await self._step(self._go, seconds)

    async def finish(self) -> None:
        """Have the program tell what arrived; it can be used again."""
        if self._programs.why_not:
            return
        report = await self._step(self._go, _SLACK_SECONDS)
        if report is None or self._program is None:
            return
        self.arrived = {int(path): count for path, count in report["arrived"].items()}
        self.rtts = {
            int(path): [seconds * 1000 for seconds in times]
            for path, times in report["rtts"].items()
        }
        self._programs.idle.append(self._program)
        self._program = None

    async def aclose(self) -> None:
        """Let a program go that has not come to the end."""
        program, self._program = self._program, None
        if program is not None:
            await program.aclose()

    async def _order(self, line: bytes) -> dict[str, Any] | None:
        """Give the order to a program; None: there can be none. One that waited may have been ended."""
        while self._programs.idle:
            self._program = self._programs.idle.pop()
            try:
                return await self._program.ask(line)
            except _Ended:
                await self.aclose()
        command = Command(("/bin/sh", "-c", _AS_ROOT, "sh", _source()))
        self._program = _Program(await self._programs.launcher.start(command, stdin=True))
        try:
            return await self._program.ask(line)
        except _Ended as end:
            if end.code != _NOT_FOUND:
                raise
            self._programs.why_not = "it has no python3"
            return None

    async def _go(self) -> dict[str, Any]:
        assert self._program is not None  # noqa: S101  it has begun
        return await self._program.ask(_GO)

    async def _step(
        self, work: Callable[[], Awaitable[dict[str, Any] | None]], seconds: float
    ) -> dict[str, Any] | None:
        """Do a part of it within a deadline, unless the node is down.

        Raises:
            LabError: the program failed, or gives no answer.
        """
        if self.is_down:
            return None
        try:
            with anyio.fail_after(seconds):
                return await work()
        except NodeDied:
            self.is_down = True
            return None
        except _Ended as end:
            raise self._failed(end.words) from None
        except TimeoutError:
            raise self._failed(f"it has not answered for {seconds:g} s") from None

    async def _ping_all(self) -> None:
        limit = anyio.CapacityLimiter(_PINGS_AT_ONCE)

        async def one(number: int, path: Path) -> None:
            async with limit:
                self.rtts[number] = await self._ping(path)

        await _all(one(number, path) for number, path in self.paths.items())

    async def _ping(self, path: Path) -> list[float]:
        """Return the round trips of one path in ms."""
        node, launcher, timing = self._programs.node, self._programs.launcher, self._timing
        timeout = timing.count * max(timing.interval, 1.0) + timing.patience + _SLACK_SECONDS / 2
        said = ""
        for argv in ping.commands(
            str(path.address), timing.count, timing.interval, math.ceil(timing.patience)
        ):
            done = await execution.run(launcher, Command(argv), timeout=timeout)
            if done.returncode == _NOT_FOUND:
                raise LabError(
                    f"node {node!r} cannot be measured from: {self._programs.why_not}, and it has no ping",
                    node=node,
                    step="probe",
                    resolution="use an image with python3 or ping in it",
                )
            said = (done.stdout + done.stderr).decode(errors="replace")
            if (answers := ping.parse(said)) is not None:
                return answers
        raise self._failed(said, "ping")

    def _failed(self, said: str, what: str = "the program that measures") -> LabError:
        node = self._programs.node
        return LabError(
            f"node {node!r} cannot be measured from: {what} failed there",
            node=node,
            step="probe",
            details=said.strip()[-2000:] or None,
        )


@functools.cache
def _source() -> str:
    return inspect.getsource(prober)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Do all at once; the first failure is raised when all are done."""
    failures: list[BenchscaleError] = []

    async def one(part: Awaitable[None]) -> None:
        try:
            await part
        except BenchscaleError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        for part in work:
            group.start_soon(one, part)
    if failures:
        raise failures[0]


def _measured(runs: Mapping[str, _Run], number: int, path: Path, timing: Timing) -> PathMeasure:
    source, destination = runs[path.source], runs.get(path.destination)
    rtts = source.rtts.get(number, [])
    delivered = None  # what `ping` sends is not known for ours where it arrives
    if source.arrived is not None and destination is not None and destination.arrived is not None:
        delivered = destination.arrived.get(number, 0)
    return PathMeasure(
        source=path.source,
        destination=path.destination,
        address=str(path.address),
        sent=0 if source.is_down else timing.count,
        delivered=delivered,
        answered=len(rtts),
        rtts_ms=tuple(rtts),
    )
