"""Pipes of a command on the event loop."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios

import anyio

__all__ = ["PipeReader", "PipeWriter"]

_CHUNK = 256 * 1024


class PipeReader:
    """The read end of an output pipe.

    A background child may hold the write end for ever. So the stream ends at the end of file or,
    once `finish` has said that the command is over, after what the pipe held at that moment.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._left: int | None = None  # bytes still to deliver, once the command is over
        self._waiter: asyncio.Future[None] | None = None
        self._at_end = False

    async def receive(self) -> bytes:
        """Return the next bytes; raises `anyio.EndOfStream` at the end."""
        while not self._at_end and self._left != 0:
            try:
                size = _CHUNK if self._left is None else min(_CHUNK, self._left)
                data = os.read(self._fd, size)
            except BlockingIOError:
                await self._readable()
                continue
            if data:
                if self._left is not None:
                    self._left -= len(data)
                return data
            self._at_end = True
        raise anyio.EndOfStream

    def finish(self) -> None:
        """Take note that the command is over: whatever it wrote is in the pipe by now."""
        if self._fd < 0 or self._left is not None:
            return
        size = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, size)
        self._left = size[0]
        self._wake()

    def close(self) -> None:
        """Stop delivering. While somebody still holds the other end, what comes is discarded.

        A background child that logs to its inherited output must not be killed by SIGPIPE because
        nobody listens any more.
        """
        if self._fd < 0:
            return
        self._wake()
        self._left = 0
        if self._at_end:
            self.abandon()
        else:
            self._loop.add_reader(self._fd, self._discard)

    def abandon(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            self._wake()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor, negative once it is closed."""
        return self._fd

    @property
    def is_open(self) -> bool:
        """Whether the descriptor is still held."""
        return self._fd >= 0

    def _discard(self) -> None:
        try:
            while os.read(self._fd, _CHUNK):
                pass
        except BlockingIOError:
            return
        self.abandon()

    async def _readable(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self._fd, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class PipeWriter:
    """The write end of a command's standard input."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    async def send(self, data: bytes) -> None:
        """Write all of data; raises `anyio.BrokenResourceError` if the command no longer reads."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise anyio.ClosedResourceError
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._fd)
            except BrokenPipeError:
                raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """Close the pipe: the command reads to its end."""
        self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self._fd >= 0:
            anyio.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1
