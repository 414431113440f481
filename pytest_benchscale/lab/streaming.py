"""A command whose streams are handed through as they come, and nothing of them is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.transports.base import ByteReader, ByteWriter, Command
from pytest_benchscale.transports.execution import KILL_DEADLINE, kill

__all__ = ["Read", "Write", "stream"]

Read = Callable[[], Awaitable[bytes]]
"""Returns the next bytes, none of them at the end."""

Write = Callable[[bytes], Awaitable[None]]


async def stream(machine: Machine, command: Command, read: Read, out: Write, err: Write) -> int:
    """Run a command to its end and return its exit code; negative: killed by that signal.

    Whatever ends this early, such as an output that nobody takes any more, ends the command and its
    children, too.

    Raises:
        NodeDied, LabError, NotSupported: as `Node.exec` says.
        Exception: whatever `read`, `out` or `err` raise.
    """
    running = await machine.start(command, "exec", stdin=True)
    feeding = asyncio.create_task(_feed(read, running.stdin))
    pumps = [
        asyncio.create_task(_pump(running.stdout, out)),
        asyncio.create_task(_pump(running.stderr, err)),
    ]
    try:
        await asyncio.gather(*pumps)
        return await running.wait()
    except BaseException:
        await kill(running)
        raise
    finally:
        for task in (feeding, *pumps):
            task.cancel()
        with anyio.move_on_after(KILL_DEADLINE, shield=True):
            await asyncio.gather(feeding, *pumps, return_exceptions=True)
            await running.aclose()


async def _feed(read: Read, stdin: ByteWriter | None) -> None:
    if stdin is None:
        return
    try:
        while data := await read():
            await stdin.send(data)
        await stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # the command does not read it, which is its own affair


async def _pump(source: ByteReader, write: Write) -> None:
    try:
        while True:
            await write(await source.receive())
    except anyio.EndOfStream:
        pass
