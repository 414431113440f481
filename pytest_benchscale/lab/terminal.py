"""A command, or a shell for a person, on a terminal in a node."""

from __future__ import annotations

import re
import time

import anyio

from pytest_benchscale.errors import LabError, NodeDied, WaitTimeout
from pytest_benchscale.lab.arguments import encode
from pytest_benchscale.lab.block import Block
from pytest_benchscale.lab.machine import Machine, last_lines
from pytest_benchscale.lab.portal import on_portal
from pytest_benchscale.transports.base import Command, Terminal, TerminalSize

__all__ = ["SHELL_SCRIPT", "NodeTerminal"]

# In the user's home, else in the root directory. Without a locale, bash takes what is typed apart bit by bit.
SHELL_SCRIPT = """\
if ! cd ~ 2>/dev/null; then
h=$(getent passwd "$(id -u)" 2>/dev/null | cut -d: -f6)
if [ -n "$h" ] && cd "$h" 2>/dev/null; then export HOME="$h"; else cd /; fi
fi
[ -n "$LC_ALL$LC_CTYPE$LANG" ] || export LANG=C.UTF-8
if command -v bash >/dev/null 2>&1; then exec bash; fi
exec /bin/sh
"""
"""Becomes the shell for a person."""


class NodeTerminal(Block):
    """A terminal that is there while the `async with` block is; `Node.terminal` makes it.

    On leaving the block it hangs up: a command that has not ended is killed, with all it has started.
    """

    def __init__(self, machine: Machine, command: Command, size: TerminalSize, term: str) -> None:
        self._machine = machine
        self.portal = self._portal = machine.context.portal
        self._command = command
        self._size = size
        self._term = term
        self._terminal: Terminal | None = None

    @on_portal
    async def begin(self) -> None:
        """Start the command."""
        __tracebackhide__ = True
        self._terminal = await self._machine.open_terminal(self._command, self._size, self._term)

    @on_portal
    async def finish(self) -> None:
        """Hang up."""
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            await terminal.aclose()

    @on_portal
    async def receive(self) -> bytes:
        """Return what the terminal shows next; empty: the command has ended, and all was received."""
        try:
            return await self._there("receive").receive()
        except anyio.EndOfStream:
            return b""

    @on_portal
    async def receive_until(self, pattern: str | re.Pattern[str], timeout: float = 10) -> str:
        """Return what the terminal shows, up to where the regex is found in it; in seconds.

        What comes in the same piece behind it is returned, too.

        Raises:
            WaitTimeout: it was not shown in time, or the command has ended; tells what was shown.
        """
        shown, terminal = b"", self._there("receive_until")
        begun = time.monotonic()
        with anyio.move_on_after(timeout):
            while not re.search(pattern, shown.decode(errors="replace")):
                try:
                    shown += await terminal.receive()
                except anyio.EndOfStream:
                    break
            else:
                return shown.decode(errors="replace")
        waited = min(timeout, time.monotonic() - begun)
        text = last_lines(shown.decode(errors="replace"))
        raise WaitTimeout(f"{pattern!r} on the terminal", waited, text, node=self._machine.name)

    @on_portal
    async def send(self, data: str | bytes) -> None:
        """Type something. Enter is a carriage return, Ctrl-C the byte 3.

        Raises:
            LabError: the command has ended.
        """
        try:
            await self._there("send").send(encode(data))
        except anyio.BrokenResourceError:
            raise LabError(
                "nobody reads what is typed: the command on the terminal has ended",
                node=self._machine.name,
                step="terminal",
            ) from None

    @on_portal
    async def resize(self, rows: int, columns: int) -> None:
        """Make the terminal larger or smaller."""
        await self._there("resize").resize(TerminalSize(rows, columns))

    @on_portal
    async def wait(self) -> int:
        """Wait for the end of the command, and return its exit code.

        Raises:
            NodeDied: the node ended first.
        """
        __tracebackhide__ = True
        try:
            return await self._there("wait").wait()
        except NodeDied as exc:
            raise await self._machine.explain(exc, "terminal") from None

    def _there(self, step: str) -> Terminal:
        if self._terminal is None:
            raise LabError(
                "the terminal is closed",
                node=self._machine.name,
                step=step,
                resolution="use it inside its `async with` block",
            )
        return self._terminal
