"""What a guest says on its serial console, followed in the file that it is written to."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Console"]


class Console:
    """The console of one guest. A file that is not there yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> str:
        """Return all of it as plain text, without control sequences."""
        raise NotImplementedError

    def tail(self, lines: int = 20) -> str:
        """Return its last lines that are not empty."""
        raise NotImplementedError

    def trouble(self) -> str | None:
        """Return what is fatal in what is new since the last call: a kernel panic, emergency mode."""
        raise NotImplementedError

    def skip(self) -> None:
        """Take everything up to now as seen, as before another boot."""
        raise NotImplementedError
