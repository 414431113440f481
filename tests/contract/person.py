"""Somebody who sits before a terminal: a pseudo-terminal with a program on it, by hand."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

__all__ = ["PROMPT", "Person", "at_a_terminal"]

PROMPT = "ready: "
_SECONDS = 60.0


class Person:
    """The terminal, and the program on it."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self.master, self.slave, self.process = master, slave, process
        self.shown = ""  # since it was last looked at

    def settings(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        _resize(self.master, rows, columns)

    def types(self, text: str) -> None:
        os.write(self.master, text.encode())

    def reads(self, pattern: str) -> str:
        """Wait until something is shown; return it with all before it."""
        deadline = time.monotonic() + _SECONDS
        while not (found := re.search(pattern, self.shown)):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.master], [], [], max(left, 0))
            assert ready, f"{pattern!r} was not shown, but {self.shown!r}"
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text

    def has_a_prompt(self) -> str:
        """Wait for the shell, and give it a prompt that is known."""
        self.types("PS1='ready'': '; PROMPT_COMMAND=\r")
        return self.reads(f"\n[^\n]*{PROMPT}")

    def enters(self, line: str) -> str:
        """Type a line; return what is shown until the next prompt."""
        self.types(f"{line}\r")
        return self.reads(f"\n[^\n]*{PROMPT}")

    def is_done(self) -> int:
        """Wait for the end of the program, with its output read; return its exit code."""
        deadline = time.monotonic() + _SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it has not ended: {self.shown!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
        return self.process.returncode


@contextmanager
def at_a_terminal(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[Person]:
    master, slave = os.openpty()
    _resize(master, 30, 90)
    process = subprocess.Popen(
        ["setsid", "--ctty", *argv],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", **env},
    )
    try:
        yield Person(master, slave, process)
    finally:
        process.kill()
        process.wait(10)
        os.close(master)
        os.close(slave)


def _resize(master: int, rows: int, columns: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
