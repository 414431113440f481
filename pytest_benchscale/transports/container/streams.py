"""The ends of a command's streams, between a raw stream to the daemon and whoever reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import anyio

from pytest_benchscale.transports.container.hijack import RawStream

__all__ = ["Inbox", "NoteFinder", "Outbox"]

_HIGH_WATER = 4 << 20  # bytes that wait for a reader before the daemon has to
_LONGEST_NOTE = 4096


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

    def __init__(self, stream: RawStream) -> None:
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
