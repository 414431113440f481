"""The output of a background process, line by line, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from pytest_benchscale.lab.portal import Portal

__all__ = ["LineLog", "LineStream"]

KEPT_LINES = 10_000
KEPT_BYTES = 16 << 20
LONGEST_LINE = 1 << 20  # bytes; a longer one is broken up


class LineLog:
    """What one stream has said: the newest lines, and a wake-up for who waits for the next.

    Lives in the portal. Lines are text without their newline, UTF-8 with replacement.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.ended = False
        self._on_line = on_line
        self._lines: deque[str] = deque()
        self._size = 0
        self._end = 0  # how many lines there ever were
        self._rest = bytearray()
        self._news = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """Take in what the process wrote."""
        *complete, rest = data.split(b"\n")
        if complete:
            self._add(bytes(self._rest) + complete[0])
            self._rest.clear()
            for line in complete[1:]:
                self._add(line)
        self._rest += rest
        while len(self._rest) >= LONGEST_LINE:
            self._add(bytes(self._rest[:LONGEST_LINE]))
            del self._rest[:LONGEST_LINE]
        if complete:
            self._notify()

    def end(self) -> None:
        """The stream is over; an unfinished line counts as one."""
        if self._rest:
            self._add(bytes(self._rest))
            self._rest.clear()
        self.ended = True
        self._notify()

    @property
    def lines(self) -> Sequence[str]:
        """The complete lines that are kept, oldest first."""
        return self._lines

    def tail(self) -> Sequence[str]:
        """Return the lines that are kept, oldest first, with an unfinished one."""
        rest = [self._rest.decode("utf-8", "replace")] if self._rest else []
        return [*self._lines, *rest]

    async def after(self, position: int) -> tuple[int, Sequence[str]]:
        """Wait for lines after a position; return the new position and the lines.

        No lines: the stream is over. Who is further behind than what is kept misses the oldest.
        """
        while self._end <= position and not self.ended:
            await self._news.wait()
        behind = min(self._end - position, len(self._lines))
        return self._end, list(self._lines)[len(self._lines) - behind :]

    def _add(self, raw: bytes) -> None:
        line = raw.removesuffix(b"\r").decode("utf-8", "replace")
        self._lines.append(line)
        self._size += len(line)
        self._end += 1
        while len(self._lines) > KEPT_LINES or (self._size > KEPT_BYTES and len(self._lines) > 1):
            self._size -= len(self._lines.popleft())
        self._on_line(line)

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class LineStream:
    """An output stream of a process: iterate over its lines, with `async for`, once.

    A loop that was left goes on where it stopped. Who reads more than 10,000 lines behind the
    process misses the oldest of them.
    """

    def __init__(self, log: LineLog, portal: Portal) -> None:
        self._log = log
        self._portal = portal
        self._position = 0
        self._ready: deque[str] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        __tracebackhide__ = True
        if not self._ready:
            self._take(await self._portal.call(self._log.after, self._position))
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    def next_blocking(self) -> str | None:
        """Return the next line, None at the end; from a plain thread."""
        __tracebackhide__ = True
        if not self._ready:
            self._take(self._portal.call_blocking(self._log.after, self._position))
        return self._ready.popleft() if self._ready else None

    def _take(self, news: tuple[int, Sequence[str]]) -> None:
        self._position, lines = news
        self._ready.extend(lines)
