"""Bytes from the event loop to a worker thread, with a bound on how much may wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator

__all__ = ["Relay", "RelayBroken"]

_MOST_WAITING = 4 << 20  # bytes


class RelayBroken(Exception):
    """The other side has given up."""


class Relay:
    """Chunks sent on the loop, iterated over in a thread.

    Cheaper than a call into the loop for each: the thread takes whatever has come.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._changed = threading.Condition()
        self._room = asyncio.Event()

    async def send(self, chunk: bytes) -> None:
        """Hand over a chunk; waits while too much is waiting already.

        Raises:
            RelayBroken: the thread reads no more.
        """
        with self._changed:
            self._waiting.append(chunk)
            self._size += len(chunk)
            self._room.clear()
            self._changed.notify()
            is_full = self._size >= _MOST_WAITING
        if is_full and not self._broken:
            await self._room.wait()
        if self._broken:
            raise RelayBroken

    def end(self) -> None:
        """Say that nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def break_off(self) -> None:
        """Give up, from either side: whoever waits on the other gets `RelayBroken`."""
        with self._changed:
            self._broken = True
            self._waiting.clear()
            self._changed.notify()
        self._loop.call_soon_threadsafe(self._room.set)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended or self._broken)
                if self._broken:
                    raise RelayBroken
                if not self._waiting:
                    return
                chunks, self._waiting, self._size = self._waiting, deque(), 0
            self._loop.call_soon_threadsafe(self._room.set)
            yield from chunks
