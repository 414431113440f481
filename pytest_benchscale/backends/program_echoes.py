"""Probes of machines whose network cannot be entered from here: a program in each sends and takes note.

It is the text of `network/prober.py`, for `python3`. A machine without that, or where raw sockets are not
allowed, is left to its `ping`, which knows of round trips only.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import anyio

from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.network import ping, prober
from pytest_benchscale.network.echo import Path, Timing
from pytest_benchscale.network.matrix import PathMeasure
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command, Launcher, RunningCommand

__all__ = ["ProgramEchoes"]

_START_SECONDS = 60.0  # an emulated machine may take long for it
_SLACK_SECONDS = 30.0
_PINGS_AT_ONCE = 10  # in one machine
_NOT_FOUND = 127
# Root may open raw sockets; who logs in as somebody else may be let be root.
_AS_ROOT = """\
command -v python3 >/dev/null || exit 127
[ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null || exec sudo -n python3 -c "$1"
exec python3 -c "$1"
"""


class ProgramEchoes:
    """A node that can run programs."""

    def __init__(self, node: str, launcher: Launcher) -> None:
        self.node = node
        self.launcher = launcher

    @classmethod
    async def together(
        cls, stations: Mapping[str, Self], paths: Sequence[Path], timing: Timing
    ) -> Sequence[PathMeasure]:
        """Measure paths: first everybody is ready, then all send, then all tell.

        Raises:
            LabError: a node has neither python3 nor ping, or its program failed.
        """
        runs = {name: _Run(one, timing) for name, one in stations.items()}
        token = os.urandom(8).hex()
        for number, path in enumerate(paths):
            runs[path.source].paths[number] = path
        try:
            await _all(run.begin() for run in runs.values())
            await _all(run.send(token) for run in runs.values())
            await _all(run.finish() for run in runs.values())
        finally:
            with anyio.CancelScope(shield=True):
                await _all(run.aclose() for run in runs.values())
        return [_measured(runs, number, path, timing) for number, path in enumerate(paths)]

    def close(self) -> None:
        """Nothing is held between measurements."""


class _Run:
    """One node's part in one measurement. Of a node that ends meanwhile, `is_down` is set."""

    def __init__(self, echoes: ProgramEchoes, timing: Timing) -> None:
        self.paths: dict[int, Path] = {}
        self.rtts: dict[int, list[float]] = {}  # in ms
        self.arrived: dict[int, int] | None = None
        self.is_down = False
        self._node = echoes.node
        self._launcher = echoes.launcher
        self._timing = timing
        self._running: RunningCommand | None = None
        self._received = b""
        self._has_ended = False
        self._why_not = ""  # the program is not used

    async def begin(self) -> None:
        """Start the program and wait until it is ready; or find out why there can be none."""
        command = Command(("/bin/sh", "-c", _AS_ROOT, "sh", _program()))
        answer = await self._step(lambda: self._start(command), _START_SECONDS)
        if answer is not None and "refused" in answer:
            self._why_not = f"raw sockets are refused: {answer['refused']}"

    async def send(self, token: str) -> None:
        """Send all requests, and return when they are answered or patience is over."""
        timing = self._timing
        enough = timing.count * max(timing.interval, ping.SHORTEST_INTERVAL) + timing.patience
        if self._why_not:
            await self._step(self._ping_all, timing.count + timing.patience + _SLACK_SECONDS)
            return
        order = {
            "token": token,
            "paths": {number: str(path.address) for number, path in self.paths.items()},
            "count": timing.count,
            "interval": timing.interval,
            "patience": timing.patience,
        }
        line = json.dumps(order).encode() + b"\n"
        await self._step(lambda: self._order(line), enough + _SLACK_SECONDS)

    async def finish(self) -> None:
        """Have the program tell what arrived."""
        if self._why_not:
            return
        report = await self._step(self._report, _SLACK_SECONDS)
        if report is not None:
            self.arrived = {int(path): count for path, count in report["arrived"].items()}
            self.rtts = {
                int(path): [seconds * 1000 for seconds in times]
                for path, times in report["rtts"].items()
            }

    async def aclose(self) -> None:
        """End the program, if it still runs."""
        running, self._running = self._running, None
        if running is not None:
            if not self._has_ended:
                with suppress(OSError, BenchscaleError):
                    await execution.kill(running)
            with suppress(OSError, BenchscaleError):
                await running.aclose()

    async def _start(self, command: Command) -> dict[str, Any] | None:
        self._running = await self._launcher.start(command, stdin=True)
        return await self._answer()

    async def _order(self, line: bytes) -> dict[str, Any] | None:
        assert self._running is not None  # noqa: S101  it has begun
        assert self._running.stdin is not None  # noqa: S101  it was started so
        with suppress(anyio.BrokenResourceError):  # what it says last tells why
            await self._running.stdin.send(line)
        return await self._answer()

    async def _report(self) -> dict[str, Any] | None:
        assert self._running is not None  # noqa: S101  it has begun
        assert self._running.stdin is not None  # noqa: S101  it was started so
        await self._running.stdin.aclose()
        report = await self._answer()
        await self._running.wait()
        self._has_ended = True
        return report

    async def _answer(self) -> dict[str, Any] | None:
        """Return the next line of the program; None: there is no program, and `ping` takes its place.

        Raises:
            LabError: it ended before.
        """
        running = self._running
        assert running is not None  # noqa: S101  it has begun
        while b"\n" not in self._received:
            try:
                self._received += await running.stdout.receive()
            except anyio.EndOfStream:
                code = await running.wait()
                self._has_ended = True
                if code == _NOT_FOUND and not self._received:
                    self._why_not = "it has no python3"
                    return None
                raise self._failed(await _rest(running)) from None
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _step(
        self, work: Callable[[], Awaitable[dict[str, Any] | None]], seconds: float
    ) -> dict[str, Any] | None:
        """Do a part of it within a deadline, unless the node is down."""
        if self.is_down:
            return None
        try:
            with anyio.fail_after(seconds):
                return await work()
        except NodeDied:
            self.is_down = True
            return None
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
        timing = self._timing
        timeout = timing.count * 1.0 + timing.patience + _SLACK_SECONDS / 2
        said = ""
        for argv in ping.commands(
            str(path.address), timing.count, timing.interval, math.ceil(timing.patience)
        ):
            done = await execution.run(self._launcher, Command(argv), timeout=timeout)
            if done.returncode == _NOT_FOUND:
                raise LabError(
                    f"node {self._node!r} cannot be measured from: {self._why_not}, and it has no ping",
                    node=self._node,
                    step="probe",
                    resolution="use an image with python3 or ping in it",
                )
            said = (done.stdout + done.stderr).decode(errors="replace")
            if (answers := ping.parse(said)) is not None:
                return answers
        raise self._failed(said, "ping")

    def _failed(self, said: str, what: str = "the program that measures") -> LabError:
        return LabError(
            f"node {self._node!r} cannot be measured from: {what} failed there",
            node=self._node,
            step="probe",
            details=said.strip()[-2000:] or None,
        )


@functools.cache
def _program() -> str:
    return inspect.getsource(prober)


async def _rest(running: RunningCommand) -> str:
    """Return what a program that has ended wrote to standard error."""
    said = b""
    with suppress(anyio.EndOfStream):
        while True:
            said += await running.stderr.receive()
    return said.decode(errors="replace")


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
    delivered = None
    if destination is not None and destination.arrived is not None:
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
