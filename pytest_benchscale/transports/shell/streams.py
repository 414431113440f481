"""The ends of a command's streams, between what carries them and whoever reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from pytest_benchscale.errors import BenchscaleError

__all__ = ["STDERR", "STDOUT", "Inbox", "NoteFinder", "Outbox", "Receiver", "Stream"]

STDOUT, STDERR = 1, 2

_HIGH_WATER = 4 << 20  # bytes that wait for a reader before who sends them has to
_LONGEST_NOTE = 4096


class Receiver(Protocol):
    """Who takes what comes over a stream."""

    def received(self, stream: int, data: bytes) -> None:
        """Take a piece of output; `stream` is STDOUT or STDERR."""
        ...

    def closed(self) -> None:
        """Take note of the end of both outputs; called once."""
        ...


class Stream(Protocol):
    """What carries the input and both outputs of one process in a node.

    `failure` tells, once it is closed, that it broke: what became of the process is not known then.
    """

    is_closed: bool
    failure: BenchscaleError | None

    def deliver_to(self, receiver: Receiver) -> None:
        """Name who takes the output; what has come already is handed over at once."""
        ...

    def write(self, data: bytes) -> None:
        """Send input without waiting; for little."""
        ...

    async def send(self, data: bytes) -> None:
        """Send input; waits while the node takes no more.

        Raises:
            anyio.BrokenResourceError: it is closed.
        """
        ...

    def end_input(self) -> None:
        """Close the input: the process reads to the end of the file."""
        ...

    def pause(self) -> None:
        """Stop reading: who sends, and then the process, has to wait."""
        ...

    def resume(self) -> None:
        """Go on reading."""
        ...

    def close(self) -> None:
        """Drop it."""
        ...


class Inbox:
    """One output of a command: what has come and was not yet read."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._ended = False
        self.on_drained: Callable[[], None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether more should wait until some of this was read."""
        return self._size > _HIGH_WATER

    def put(self, data: bytes) -> None:
        """Add what has come."""
        if data and not self._ended:
            self._chunks.append(data)
            self._size += len(data)
            self._arrived.set()

    def end(self) -> None:
        """Note that nothing more will come."""
        self._ended = True
        self._arrived.set()

    def abandon(self) -> None:
        """Forget what nobody will read."""
        self.end()
        self._chunks.clear()
        self._size = 0

    async def receive(self) -> bytes:
        """Return the next bytes; raises `anyio.EndOfStream` at their end."""
        while not self._chunks:
            if self._ended:
                raise anyio.EndOfStream
            self._arrived.clear()
            await self._arrived.wait()
        data = self._chunks.popleft()
        was_full = self.is_full
        self._size -= len(data)
        if was_full and not self.is_full and self.on_drained is not None:
            self.on_drained()
        return data


class Outbox:
    """The standard input of a command that has a session of its own."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """Write all of data; raises `anyio.BrokenResourceError` when nobody reads any more."""
        await self._stream.send(data)

    async def aclose(self) -> None:
        """Close the stream: the command reads to EOF."""
        self._stream.end_input()


class NoteFinder:
    """Takes the notes of a session's shell out of one of its outputs.

    A note is a line that begins with `word`, anywhere in the stream. `data` is called with what
    stands between notes, `note` with each note, without word and newline.
    """

    def __init__(
        self, word: bytes, data: Callable[[bytes], None], note: Callable[[bytes], None]
    ) -> None:
        self._word = word
        self._data = data
        self._note = note
        self._held = b""  # what may be the beginning of a note

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        data = self._held + data
        self._held = b""
        while data:
            start = data.find(self._word)
            if start < 0:
                keep = _overlap(data, self._word)
                self._data(data[: len(data) - keep])
                self._held = data[len(data) - keep :]
                return
            end = data.find(b"\n", start, start + _LONGEST_NOTE)
            if start:
                self._data(data[:start])
            if end < 0:
                self._held = data[start:]
                return
            self._note(data[start + len(self._word) : end])
            data = data[end + 1 :]


def _overlap(data: bytes, word: bytes) -> int:
    """Return how many bytes at the end of data are a beginning of word, as many as can be."""
    start = data.find(word[:1], max(0, len(data) - len(word) + 1))
    while start >= 0:
        if word.startswith(data[start:]):
            return len(data) - start
        start = data.find(word[:1], start + 1)
    return 0
