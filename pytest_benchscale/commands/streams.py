"""The standard streams of a command of ours, for a command in a node."""

from __future__ import annotations

import asyncio
import os

from anyio import to_thread

__all__ = ["Gathered", "read_stdin", "write_stderr", "write_stdout"]

_CHUNK = 1 << 16  # bytes


class Gathered:
    """An output that is kept instead of shown."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        """Add to it."""
        self.data += data

    def text(self) -> str:
        """Return it as text."""
        return self.data.decode(errors="replace")


async def read_stdin() -> bytes:
    """Return what comes next from the standard input; nothing at its end.

    Waits for it in the event loop: a thread that waits could not be ended.
    """
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    try:
        loop.add_reader(0, there.set)
    except OSError:  # a file, which is always ready; or none is open
        pass
    else:
        try:
            await there.wait()
        finally:
            loop.remove_reader(0)
    try:
        return os.read(0, _CHUNK)
    except OSError:
        return b""


async def write_stdout(data: bytes) -> None:
    """Write to the standard output.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    await to_thread.run_sync(_write, 1, data)


async def write_stderr(data: bytes) -> None:
    """Write to the standard error."""
    await to_thread.run_sync(_write, 2, data)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
