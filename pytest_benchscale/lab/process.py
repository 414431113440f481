"""A background process on a node."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import anyio

from pytest_benchscale.errors import BackendUnavailable, LabError, NodeDied, WaitTimeout
from pytest_benchscale.lab.block import Block
from pytest_benchscale.lab.history import CommandRecord
from pytest_benchscale.lab.lines import LineLog, LineStream
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.portal import on_portal
from pytest_benchscale.results import ExecResult
from pytest_benchscale.transports.base import ByteReader, Command, RunningCommand
from pytest_benchscale.transports.execution import KILL_DEADLINE, kill

__all__ = ["Process"]

GRACE = 2.0
"""How long, in seconds, a process may take to end itself after SIGTERM when its block is left."""

_SHOWN_LINES = 40


class Process(Block):
    """A process that runs while the `async with` block does; `Node.process` makes it.

    Its output is read all the time, so that it never blocks; the newest 10,000 lines are kept. On
    leaving the block it gets SIGTERM, two seconds, and then SIGKILL with all its children.
    """

    def __init__(
        self, machine: Machine, command_line: str, command: Command, *, stdin: bool
    ) -> None:
        self._machine = machine
        self.portal = self._portal = machine.context.portal
        self._node = machine.name
        self._command_line = command_line
        self._command = command
        self._stdin = stdin
        self._running: RunningCommand | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._returncode: int | None = None
        self._failure: Exception | None = None
        self._awaited: list[tuple[re.Pattern[str], asyncio.Future[re.Match[str]]]] = []
        self._begun = 0.0
        self._out = LineLog(self._on_line)
        self._err = LineLog(self._on_line)
        self.stdout = LineStream(self._out, self._portal)
        self.stderr = LineStream(self._err, self._portal)

    def __repr__(self) -> str:
        state = "not started" if self._running is None else self._outcome()
        return f"<Process {self._command_line!r} on {self._node!r}: {state}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, negative when a signal ended it, None while it runs."""
        return self._returncode

    @on_portal
    async def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end by itself and return its exit code.

        Raises:
            WaitTimeout: it did not, within `timeout` seconds.
            NodeDied: the node ended first.
        """
        self._require_running("wait")
        with anyio.move_on_after(timeout):
            await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        if self._returncode is None:
            awaited = f"the end of {self._command_line}"
            raise WaitTimeout(awaited, timeout or 0.0, self._excerpt(), node=self._node)
        return self._returncode

    @on_portal
    async def send_signal(self, signum: int) -> None:
        """Send a signal to the process itself; nothing happens when it has ended."""
        running = self._require_running("send_signal")
        if not self._ended.is_set():
            await running.send_signal(signum)

    async def terminate(self) -> None:
        """Ask the process to end: SIGTERM."""
        __tracebackhide__ = True
        await self.send_signal(signal.SIGTERM)

    @on_portal
    async def kill(self) -> None:
        """End the process and its children at once, and wait for their end."""
        running = self._require_running("kill")
        if not await kill(running):
            raise self._unkillable()

    @on_portal
    async def write(self, data: str | bytes) -> None:
        """Write to the standard input of a process that was started with `stdin=True`."""
        stdin = self._require_running("write").stdin
        if stdin is None:
            raise LabError(
                f"the process has no standard input: {self._command_line}",
                node=self._node,
                step="write",
                resolution="start it with process(..., stdin=True)",
            )
        try:
            await stdin.send(data.encode() if isinstance(data, str) else data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise LabError(
                f"the process no longer reads its standard input: {self._command_line}",
                node=self._node,
                step="write",
                details=self._excerpt(),
            ) from None

    @on_portal
    async def close_stdin(self) -> None:
        """Close the standard input: the process reads to EOF."""
        stdin = self._require_running("close_stdin").stdin
        if stdin is not None:
            await stdin.aclose()

    @on_portal
    async def wait_for_line(
        self, pattern: str | re.Pattern[str], timeout: float = 10
    ) -> re.Match[str]:
        """Return the first line, of either stream and from the beginning, that the regex finds.

        `match.string` is the line.

        Raises:
            WaitTimeout: there was none within `timeout` seconds; shows the last lines.
            LabError: the process ended without such a line; shows its output.
            NodeDied: the node ended.
        """
        self._require_running("wait_for_line")
        regex = re.compile(pattern)
        for line in (*self._out.lines, *self._err.lines):
            if match := regex.search(line):
                return match
        if self._ended.is_set():
            raise self._ended_without(regex)
        found: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()
        entry = (regex, found)
        self._awaited.append(entry)
        try:
            with anyio.move_on_after(timeout):
                return await found
        finally:
            self._awaited.remove(entry)
        awaited = f"a line that matches {regex.pattern!r} from {self._command_line}"
        raise WaitTimeout(awaited, timeout, self._excerpt(), node=self._node)

    @on_portal
    async def begin(self) -> None:
        """Start the process: what entering the block does."""
        if self._running is not None:
            raise LabError(
                f"the process was started before: {self._command_line}",
                node=self._node,
                step="process",
                resolution="make a new one with node.process(...)",
            )
        self._begun = time.time()
        self._running = running = await self._machine.start(
            self._command, "process", stdin=self._stdin
        )
        self._tasks = [
            asyncio.create_task(self._read(running.stdout, self._out)),
            asyncio.create_task(self._read(running.stderr, self._err)),
        ]
        self._tasks.append(asyncio.create_task(self._watch(running, tuple(self._tasks))))
        self._record("started in the background", 0.0)

    @on_portal
    async def finish(self) -> None:
        """End the process with its children: what leaving the block does. Safe to call twice.

        Raises:
            LabError: it could not be ended in time.
            BackendUnavailable: what its node runs on is away.
        """
        running = self._running
        if running is None or not self._tasks:
            return
        with anyio.CancelScope(shield=True):
            await self._end(running)

    async def _end(self, running: RunningCommand) -> None:
        if not self._ended.is_set():
            with anyio.move_on_after(GRACE):
                try:
                    await running.send_signal(signal.SIGTERM)
                    await self._ended.wait()
                except (NodeDied, BackendUnavailable, OSError):
                    pass  # what is left of it is killed below
        away: BackendUnavailable | None = None
        try:
            killed = await kill(running)
        except BackendUnavailable as error:
            killed, away = False, error
        with anyio.move_on_after(KILL_DEADLINE):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        with anyio.move_on_after(KILL_DEADLINE):
            await running.aclose()
        if away is not None:
            raise away
        if not killed:
            raise self._unkillable()

    async def _read(self, stream: ByteReader, log: LineLog) -> None:
        try:
            while True:
                log.feed(await stream.receive())
        except anyio.EndOfStream:
            pass
        finally:
            log.end()

    async def _watch(
        self, running: RunningCommand, readers: tuple[asyncio.Task[None], ...]
    ) -> None:
        try:
            await asyncio.gather(*readers)
            self._returncode = await running.wait()
        except NodeDied as exc:
            self._failure = await self._machine.explain(exc, "process")
        except Exception as exc:  # noqa: BLE001  `wait` raises it
            self._failure = exc
        finally:
            self._ended.set()
            for regex, found in self._awaited:
                if not found.done():
                    found.set_exception(self._ended_without(regex))
            self._record(self._outcome(), time.time() - self._begun)

    def _on_line(self, line: str) -> None:
        for regex, found in self._awaited:
            if not found.done() and (match := regex.search(line)):
                found.set_result(match)

    def _require_running(self, step: str) -> RunningCommand:
        if self._running is None:
            raise LabError(
                f"the process was not started: {self._command_line}",
                node=self._node,
                step=step,
                resolution="start it with `async with node.process(...) as p:`",
            )
        return self._running

    def _ended_without(self, regex: re.Pattern[str]) -> Exception:
        if self._failure is not None:
            return self._failure
        return LabError(
            f"the process ended with {self._outcome()} on node {self._node!r} without a line that "
            f"matches {regex.pattern!r}: {self._command_line}",
            node=self._node,
            step="wait_for_line",
            details=self._excerpt(),
        )

    def _unkillable(self) -> LabError:
        return LabError(
            f"a process on node {self._node!r} was not gone {KILL_DEADLINE:g} s after it was "
            f"killed: {self._command_line}",
            node=self._node,
            step="process",
        )

    def _record(self, outcome: str, duration: float) -> None:
        self._machine.context.history.append(
            CommandRecord(self._node, self._command_line, outcome, duration, self._begun)
        )

    def _outcome(self) -> str:
        if self._failure is not None:
            return str(self._failure).partition("\n")[0]
        if self._returncode is None:
            return "running" if not self._ended.is_set() else "unknown end"
        return ExecResult(self._command_line, self._returncode, b"", b"", 0.0).outcome

    def _excerpt(self) -> str:
        parts = [
            f"--- {name} ---\n" + "\n".join(lines[-_SHOWN_LINES:])
            for name, lines in (("stdout", self._out.tail()), ("stderr", self._err.tail()))
            if lines
        ]
        return "\n".join(parts) or "(no output)"
