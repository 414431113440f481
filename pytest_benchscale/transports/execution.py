"""Running a command to its end, the same way over every transport.

Both streams are read at once, so that neither can block the command; what it wrote is kept also
when it is killed at its deadline. Runs on asyncio, the loop of every lab: plain tasks keep our part
of a command at about 0.1 ms, a task group would double it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

import anyio

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, NodeDied
from pytest_benchscale.transports.base import (
    ByteReader,
    ByteWriter,
    Command,
    Launcher,
    RunningCommand,
)

__all__ = ["KILL_DEADLINE", "Outcome", "kill", "run"]

KILL_DEADLINE = 10.0
"""How long, in seconds, the killing of a command and its children may take."""

_DRAIN_DEADLINE = 1.0  # for what a killed command wrote and nobody read yet
_FEED_CHUNK = 1 << 20  # bytes of input handed over at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind; `duration` is in seconds.

    `returncode` is None when the command was killed at its deadline and its exit code is not known;
    `killed` is False when even that did not succeed.
    """

    returncode: int | None
    stdout: bytes
    stderr: bytes
    duration: float
    timed_out: bool = False
    killed: bool = True


async def run(
    transport: Launcher,
    command: Command,
    *,
    stdin: bytes | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Run a command to its end, or to its deadline `timeout` seconds from now.

    At the deadline, and when the caller is cancelled, the command and its children are killed
    inside the node before this returns or raises.

    Raises:
        NodeDied: the node ended first.
    """
    begun = time.perf_counter()
    exchange = _Exchange(stdin)
    with anyio.move_on_after(timeout) as deadline:
        running = await transport.start(command, stdin=stdin is not None)
        try:
            await exchange.attend(running)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await exchange.break_off(running)
            raise
        duration = time.perf_counter() - begun
        with anyio.CancelScope(shield=True):
            await running.aclose()
    if deadline.cancelled_caught:
        duration = time.perf_counter() - begun
    return Outcome(
        returncode=exchange.returncode,
        stdout=b"".join(exchange.stdout.chunks),
        stderr=b"".join(exchange.stderr.chunks),
        duration=duration,
        timed_out=deadline.cancelled_caught,
        killed=exchange.killed,
    )


async def kill(running: RunningCommand) -> bool:
    """Kill a command and its children; return whether they are gone within the deadline.

    Raises:
        BackendUnavailable: nobody can tell, since what the node runs on is away.
    """
    with anyio.move_on_after(KILL_DEADLINE, shield=True):
        try:
            await running.kill_tree()
        except NodeDied:
            return True  # and they with it
        except BackendUnavailable:
            raise
        except (OSError, BenchscaleError):
            return False
        return True
    return False


class _Exchange:
    """The bytes that go to and come from one command."""

    def __init__(self, stdin: bytes | None) -> None:
        self.stdin = stdin
        self.stdout = _Sink()
        self.stderr = _Sink()
        self.returncode: int | None = None
        self.killed = True
        self._tasks: list[asyncio.Task[None]] = []

    async def attend(self, running: RunningCommand) -> None:
        """Feed the command and read from it until it has ended."""
        readers = [
            asyncio.create_task(self.stdout.fill(running.stdout)),
            asyncio.create_task(self.stderr.fill(running.stderr)),
        ]
        self._tasks += readers
        if self.stdin is not None and running.stdin is not None:
            self._tasks.append(asyncio.create_task(_feed(running.stdin, self.stdin)))
        await asyncio.gather(*readers)
        self.returncode = await running.wait()
        if self.stdin is not None:  # it may have ended without reading all of it
            for result in await self._stop_tasks():
                if isinstance(result, Exception):
                    raise result

    async def break_off(self, running: RunningCommand) -> None:
        """Kill the command, and keep what it wrote before its end."""
        await self._stop_tasks()
        try:
            self.killed = await kill(running)
        except BackendUnavailable:
            self.killed = False
        with anyio.move_on_after(_DRAIN_DEADLINE), suppress(OSError, BenchscaleError):
            await self.stdout.fill(running.stdout)
            await self.stderr.fill(running.stderr)
            self.returncode = await running.wait()
        with anyio.move_on_after(_DRAIN_DEADLINE), suppress(OSError, BenchscaleError):
            await running.aclose()

    async def _stop_tasks(self) -> list[BaseException | None]:
        for task in self._tasks:
            task.cancel()
        return await asyncio.gather(*self._tasks, return_exceptions=True)


class _Sink:
    """What one stream has delivered so far."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended = False

    async def fill(self, stream: ByteReader) -> None:
        """Read to the end of the stream; may be cancelled and called again."""
        while not self.ended:
            try:
                self.chunks.append(await stream.receive())
            except anyio.EndOfStream:
                self.ended = True


async def _feed(stream: ByteWriter, data: bytes) -> None:
    with suppress(anyio.BrokenResourceError):  # the command does not want to know
        for start in range(0, len(data), _FEED_CHUNK):
            await stream.send(data[start : start + _FEED_CHUNK])
        await stream.aclose()
