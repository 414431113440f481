"""How far long work on a lab has come, live on one line of the terminal.

The lab tells what it does (`began`, `ended`, in its own thread), backends tell what takes long
(`note`); here it is drawn, while the thread of the tests waits. Nothing where nobody looks at it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_benchscale.lab.steps import READY, WAITS

__all__ = ["Board", "ProgressLine"]

AFTER = 1.0  # seconds; what is done by then is not shown
EVERY = 0.2  # seconds between two looks
_END_DEADLINE = 5.0  # seconds for the thread that draws: it may wait for a slow terminal


class Board:
    """What is going on, node by node, and since when."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._begun = time.monotonic()
        self._steps: dict[str | None, tuple[str, float]] = {}
        self._said: dict[str, str] = {}
        self._note = ""
        self._guard = threading.Lock()

    @property
    def seconds(self) -> float:
        """How long it takes already."""
        return time.monotonic() - self._begun

    def began(self, node: str | None, step: str) -> None:
        """A node (None: the lab) begins a step."""
        with self._guard:
            self._steps.pop(node, None)  # the newest come last
            self._steps[node] = (step, time.monotonic())

    def ended(self, node: str | None, step: str) -> None:
        """It has ended, well or not."""
        with self._guard:
            self._note = ""
            if self._steps.get(node, ("",))[0] == step:
                del self._steps[node]
            if node is not None:
                self._said.pop(node, None)

    def note(self, line: str) -> None:
        """A backend tells how far it is; `NODE: what it does` is put in place of the node's step."""
        node, colon, text = line.partition(": ")
        with self._guard:
            if colon and node in self._steps:
                self._said[node] = text
            else:
                self._note = line

    def __str__(self) -> str:
        with self._guard:
            steps, said, note = list(self._steps.items()), dict(self._said), self._note
        now = time.monotonic()
        ready = [node for node, (step, _) in steps if step == READY]
        doing = [
            " ".join(filter(None, (node, said.get(node or "", step), f"{now - since:.0f} s")))
            for node, (step, since) in sorted(steps, key=lambda one: one[1][0].startswith(WAITS))
            if step != READY
        ]
        parts = [note, f"{len(ready)} ready" if ready else "", ", ".join(doing)]
        return "; ".join(filter(None, (f"{self.title}: {self.seconds:.0f} s", *parts)))


class ProgressLine:
    """The line of the terminal where a board is shown, in place of what was shown before."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._board: Board | None = None
        self._shown = ""

    def began(self, node: str | None, step: str) -> None:
        """A node begins a step."""
        if (board := self._board) is not None:
            board.began(node, step)

    def ended(self, node: str | None, step: str) -> None:
        """A node has ended a step."""
        if (board := self._board) is not None:
            board.ended(node, step)

    def note(self, line: str) -> None:
        """A backend tells how far it is."""
        if (board := self._board) is not None:
            board.note(line)

    @contextlib.contextmanager
    def during(self, title: str, done: str) -> Iterator[None]:
        """Show how the work in the block goes on, once it takes longer than a moment; in the end: `done`."""
        if self._board is not None or not self._is_watched():
            yield
            return
        self._board = board = Board(title)
        over = threading.Event()
        drawing = threading.Thread(
            target=self._draw, args=(board, over), name="progress", daemon=True
        )
        drawing.start()
        outcome = "failed"
        try:
            yield
            outcome = done
        finally:
            self._board = None
            over.set()
            drawing.join(_END_DEADLINE)
            if self._shown:  # a line of its own stays: what pytest writes begins on the next one
                self._show(f"{title}: {outcome} after {board.seconds:.1f} s", end="\n")
                self._shown = ""

    def _is_watched(self) -> bool:
        """Whether there is a terminal that somebody looks at."""
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        return (
            terminal is not None
            and terminal.isatty
            and self._config.get_verbosity() >= 0
            and os.environ.get("TERM") != "dumb"
            and not any(map(os.environ.get, ("CI", "BUILD_NUMBER")))  # as pytest recognises it
        )

    def _draw(self, board: Board, over: threading.Event) -> None:
        wait = AFTER
        while not over.wait(wait):
            if (line := str(board)) != self._shown:
                self._show(line)
            wait = EVERY

    def _show(self, line: str, end: str = "") -> None:
        plugins = self._config.pluginmanager
        terminal: Any = plugins.get_plugin("terminalreporter")
        capture: Any = plugins.get_plugin("capturemanager")
        writer = self._config.get_terminal_writer()
        # pytest keeps the terminal from what the tests write.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            if not self._shown:
                terminal.ensure_newline()
            name = "benchscale: "
            text, width = _cut(line, writer.fullwidth - 1 - len(name))
            fill = " " * (writer.fullwidth - 1 - len(name) - width)
            terminal.write(f"\r{writer.markup(name, cyan=True)}{text}{fill}{end}", flush=True)
        self._shown = line


def _cut(line: str, columns: int) -> tuple[str, int]:
    """Return as much of a line as has room in so many columns, and how many it takes."""
    taken, text = 0, ""
    for character in line:
        shown = character if character.isprintable() else " "
        width = 0 if unicodedata.combining(shown) else 1
        width += unicodedata.east_asian_width(shown) in "WF"
        if taken + width > columns:
            break
        taken, text = taken + width, text + shown
    return text, taken
