"""What a guest says on its serial console, followed in the file that it is written to."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

__all__ = ["Console", "Read", "plain"]

Read = Callable[[int, int], bytes]
"""Given a place and a number of bytes."""

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and the cursor: ECMA-48, 5.4
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles
    r"|\x1b[ -/]*[0-~]"  # other sequences
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_LINE_END = re.compile(r"\r*\n|\r+")
_LOOK_BYTES = 1 << 20  # at most at once
_MARK_BYTES = 256

_EMERGENCY = "its system went into emergency mode"

# What ends a boot for good, and what it means. The first group, if any, is the guest's own reason.
_FATAL: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Kernel panic - not syncing: (.*)"), "its kernel panicked"),
    (re.compile(r"end Kernel panic"), "its kernel panicked"),
    (re.compile(r"ALERT! +(.*does not exist.*)"), "its root file system is not there"),
    (re.compile(r"Gave up waiting for root "), "its root file system is not there"),
    (
        re.compile(r"(?:You are in|Entering|Reached target) emergency(?: mode|\.target)"),
        _EMERGENCY,
    ),
    (re.compile(r"Reached target .*Emergency Mode"), _EMERGENCY),
    (re.compile(r"Give root password for maintenance"), _EMERGENCY),
    (re.compile(r"(grub rescue)> ?$"), "its boot loader finds no system"),
    (re.compile(r"(No bootable device)\."), "its disk has no boot loader"),
)

# What does not end a boot, but is worth showing when it never becomes ready.
_COMPLAINT = re.compile(
    r"No space left on device|Out of memory: Killed|\[FAILED\]|Failed to start|"
    r"cloud-init.*(?:\[WARNING\]|\[ERROR\]|\[CRITICAL\]|Traceback|failed)|Dependency failed"
)
_MOST_COMPLAINTS = 8
_TIME = re.compile(r"^\[ *\d+\.\d+\] ")  # the kernel's, since its start
_NOISE = re.compile(r"^\s*$|cloud-init.* ci-info: ")  # its tables of addresses and keys


class Console:
    """The console of one guest. A file that is not there yet is empty. Its methods are for threads.

    Where the file is not readable here, `source` is what returns so many of its bytes from a place on, -1
    meaning all; it raises `OSError`. `poll` says how many seconds are to be between two looks at it.
    """

    def __init__(self, source: Path | Read, poll: float = 0.2) -> None:
        self.poll = poll
        self._source = partial(_read_file, source) if isinstance(source, Path) else source
        self._seen = 0  # bytes
        self._mark = b""  # the last of them: when these change, the file was begun anew
        self._rest = b""  # of a line whose end has not come yet

    def text(self) -> str:
        """Return all of it as plain text, without control sequences."""
        return plain(self._read(0, -1))

    def tail(self, lines: int = 20) -> str:
        """Return its last lines that tell something."""
        kept = [line.rstrip() for line in self.text().splitlines() if not _NOISE.search(line)]
        return "\n".join(kept[-lines:])

    def complaints(self) -> list[str]:
        """Return the lines that may tell why a guest does not become ready, the last few."""
        found = [line.strip() for line in self.text().splitlines() if _COMPLAINT.search(line)]
        # The same words at another time are the same complaint; the first time is shown.
        first = {_TIME.sub("", line): line for line in reversed(found)}
        return list(reversed(first.values()))[-_MOST_COMPLAINTS:]

    def trouble(self) -> str | None:
        """Return what is fatal in what is new since the last call: a kernel panic, emergency mode."""
        new = self._new()
        if not new:
            return None
        *lines, self._rest = (self._rest + new).split(b"\n")
        # The rest counts, too: a prompt has no line end.
        for line in (*lines, self._rest):
            if (meaning := _fatal(plain(line))) is not None:
                return meaning
        return None

    def skip(self) -> None:
        """Take everything up to now as seen, as before another boot."""
        while len(self._new()) == _LOOK_BYTES:
            pass
        self._rest = b""

    def _new(self) -> bytes:
        begin, known = self._seen - len(self._mark), len(self._mark)
        found = self._read(begin, known + _LOOK_BYTES)
        if not found.startswith(self._mark):
            self._seen, self._mark, self._rest = 0, b"", b""
            known, found = 0, self._read(0, _LOOK_BYTES)
        new = found[known:]
        self._seen += len(new)
        self._mark = (self._mark + new)[-_MARK_BYTES:]
        return new

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._source(offset, size)
        except FileNotFoundError:
            return b""
        except OSError as error:
            if offset:
                return b""
            return f"(the console cannot be read: {error.strerror or error})".encode()


def plain(data: bytes) -> str:
    """Return what a terminal was sent as lines of text."""
    text = _CONTROL.sub("", data.decode(errors="replace"))
    return _LINE_END.sub("\n", text)


def _read_file(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _fatal(line: str) -> str | None:
    for pattern, meaning in _FATAL:
        if match := pattern.search(line):
            reason = match[1].strip() if pattern.groups else ""
            return f"{meaning}: {reason}" if reason else meaning
    return None
