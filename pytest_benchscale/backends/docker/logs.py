"""What a container has written, fetched from the daemon piece by piece.

The daemon keeps the text with the time of every line. Who waits for a line asks again and again, so what has
come is kept, and only what is newer is asked for.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

__all__ = ["LONGEST", "Log", "frames", "with_times"]

_FRAME = struct.Struct(">BxxxL")  # stream, length; Docker Engine API, "Attach to a container"
LONGEST = 4 << 20
"""Bytes of a node's log that are kept, its newest."""

_OVERLAP = 2  # seconds asked for again: what comes in at the same time is not in exact order


class Log:
    """The text of one container's log as far as it is known; safe to use from several threads.

    `since` is the time, in whole seconds, from which the daemon is to be asked; `text` is what was
    known last.
    """

    def __init__(self) -> None:
        self.since = 0
        self.text = ""
        self._lock = threading.Lock()
        self._settled: list[bytes] = []  # from before `since`
        self._size = 0
        self._dropped = False

    def update(self, body: bytes) -> str:
        """Take the daemon's answer to a question with `since`, now or before; return all the text."""
        stamped = [_parted(payload) for payload in frames(body)]
        with self._lock:
            settled = _second(self.since)
            recent = [(stamp, text) for stamp, text in stamped if stamp >= settled]
            text = b"".join([*self._settled, *(text for _, text in recent)])
            self._settle(recent)
            if len(text) > LONGEST:
                text, self._dropped = text[-LONGEST:].partition(b"\n")[2], True
            start = b"[earlier lines are left out]\n" if self._dropped else b""
            self.text = (start + text).decode("utf-8", "replace")
            return self.text

    def _settle(self, recent: list[tuple[bytes, bytes]]) -> None:
        """Keep what will not be asked for again."""
        if not recent:
            return
        newest = datetime.fromisoformat(recent[-1][0][:19].decode() + "+00:00")
        since = max(self.since, int(newest.timestamp()) - _OVERLAP)
        limit = _second(since)
        old = b"".join(text for stamp, text in recent if stamp < limit)
        self.since = since
        self._settled.append(old)
        self._size += len(old)
        while self._size - len(self._settled[0]) > LONGEST:
            self._size -= len(self._settled.pop(0))
            self._dropped = True


def with_times(body: bytes) -> str:
    """Return the text of stamped frames, each line with its time (RFC 3339) before it."""
    return b"".join(frames(body)).decode("utf-8", "replace")


def frames(body: bytes) -> Iterator[bytes]:
    """Yield the payloads of a multiplexed stream; each is a line, or a piece of a very long one."""
    position = 0
    while position + _FRAME.size <= len(body):
        _stream, length = _FRAME.unpack_from(body, position)
        position += _FRAME.size
        yield body[position : position + length]
        position += length


def _parted(payload: bytes) -> tuple[bytes, bytes]:
    stamp, _, text = payload.partition(b" ")
    return stamp, text


def _second(time: int) -> bytes:
    """Return the start of all stamps of a second; none is lower in a later one."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
