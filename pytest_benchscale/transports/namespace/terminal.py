"""A terminal inside a node, of which this side holds the master end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable

import anyio

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.transports.base import TerminalSize

__all__ = ["NamespaceTerminal"]

_CHUNK = 64 * 1024
_QUIET_SECONDS = 0.1  # without more of it: then all that an ended command has written has come
_IUTF8 = 0x4000  # asm-generic/termbits.h; the same on every Linux


class NamespaceTerminal:
    """A command of a node's init on a terminal. `kill` ends it with everything that it has started.

    The kernel tells the end of what was written only when nobody has the terminal open any more, which
    a background child may have for ever. So once the command has ended, a moment of quiet is the end, too.
    """

    def __init__(self, master: int, kill: Callable[[], Awaitable[None]]) -> None:
        os.set_blocking(master, False)
        self._master = master
        self._kill = kill
        self._changed = asyncio.Event()
        self._typing: set[asyncio.Event] = set()
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def set_up(self, size: TerminalSize) -> None:
        """Make it one of this size, in which erasing takes whole characters of UTF-8."""
        self._set_size(size)
        modes = termios.tcgetattr(self._master)
        modes[0] |= _IUTF8
        termios.tcsetattr(self._master, termios.TCSANOW, modes)

    async def receive(self) -> bytes:
        """Return what the terminal shows next; raises `anyio.EndOfStream` at the end."""
        while self._master >= 0:
            try:
                data = os.read(self._master, _CHUNK)
            except BlockingIOError:
                if not await self._more():
                    break
                continue
            except OSError:  # EIO: nobody has it open any more
                break
            if not data:
                break
            return data
        raise anyio.EndOfStream

    async def send(self, data: bytes) -> None:
        """Type something; raises `anyio.BrokenResourceError` when the terminal is gone."""
        view = memoryview(data)
        while view:
            if self._master < 0 or self._status.done():
                raise anyio.BrokenResourceError
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                raise anyio.BrokenResourceError from None

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is; its foreground processes get SIGWINCH."""
        if self._master >= 0 and not self._status.done():
            self._set_size(size)

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        return await asyncio.shield(self._status)

    async def aclose(self) -> None:
        """Hang up, and kill what has not ended."""
        with anyio.CancelScope(shield=True):
            try:
                if not self._status.done():
                    await self._kill()
            finally:
                self.close()

    def close(self) -> None:
        """Let go of the terminal: whoever has it open is told that it hung up."""
        if self._master >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._master)
            loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1
        if not self._status.done():
            self._status.cancel()
        self._tell()

    def ended(self, status: int) -> None:
        """Take note of the command's end."""
        if not self._status.done():
            self._status.set_result(status)
        self._tell()

    def lost(self, error: BenchscaleError) -> None:
        """Take note of the node's end."""
        if not self._status.done():
            self._status.set_exception(error)
            self._status.exception()  # perhaps nobody waits; that is no error
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        for waiting in self._typing:
            waiting.set()

    async def _more(self) -> bool:
        """Wait until there may be more to read; return whether there may."""
        has_ended = self._status.done()
        self._changed.clear()
        loop, master = asyncio.get_running_loop(), self._master
        loop.add_reader(master, self._changed.set)
        try:
            with anyio.move_on_after(_QUIET_SECONDS if has_ended else None) as quiet:
                await self._changed.wait()
        finally:
            if self._master == master:
                loop.remove_reader(master)
        return self._master >= 0 and not quiet.cancelled_caught

    async def _writable(self) -> None:
        """Wait until more can be typed; a command that reads nothing may let that wait for ever."""
        loop, master = asyncio.get_running_loop(), self._master
        ready = asyncio.Event()
        loop.add_writer(master, ready.set)
        self._typing.add(ready)
        try:
            await ready.wait()
        finally:
            self._typing.discard(ready)
            if self._master == master:
                loop.remove_writer(master)

    def _set_size(self, size: TerminalSize) -> None:
        packed = struct.pack("HHHH", size.rows, size.columns, 0, 0)  # struct winsize
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, packed)
