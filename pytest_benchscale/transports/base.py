"""The contract between the lab and whatever reaches into a node.

A transport starts commands and moves files; it knows nothing of labs or topologies. What all
transports share, such as collecting output under a deadline, is in `execution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = [
    "ByteReader",
    "ByteWriter",
    "Command",
    "Launcher",
    "RunningCommand",
    "Terminal",
    "TerminalSize",
    "Transport",
]


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: exactly this argv, no shell.

    `env` is added to the node's own environment. `cwd` is a path in the node, `user` a name or a
    numeric id there; None keeps the node's default.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None


class ByteReader(Protocol):
    """One output stream of a running command."""

    async def receive(self) -> bytes:
        """Return the next bytes, never empty.

        Raises:
            anyio.EndOfStream: the stream was closed, or the command has ended and everything that
                it wrote was received; a background child that still holds the stream does not
                prolong it.
        """
        ...


class ByteWriter(Protocol):
    """The standard input of a running command."""

    async def send(self, data: bytes) -> None:
        """Write all of data.

        Raises:
            anyio.BrokenResourceError: the command no longer reads.
        """
        ...

    async def aclose(self) -> None:
        """Close the stream: the command reads to EOF."""
        ...


class RunningCommand(Protocol):
    """A command inside a node, from its start until `aclose`."""

    @property
    def stdin(self) -> ByteWriter | None:
        """Standard input, None when the command was started without."""
        ...

    @property
    def stdout(self) -> ByteReader:
        """Standard output."""
        ...

    @property
    def stderr(self) -> ByteReader:
        """Standard error."""
        ...

    async def wait(self) -> int:
        """Return the exit code once the command has ended; negative: killed by that signal.

        A command that could not be started ends with 127 (not found) or 126 (anything else) and
        one line on standard error, as in a shell.

        Raises:
            NodeDied: the node ended first.
        """
        ...

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the command itself; nothing happens when it has ended."""
        ...

    async def kill_tree(self) -> None:
        """Kill the command and everything that it started, inside the node, and wait for their end."""
        ...

    async def aclose(self) -> None:
        """Let go of the streams. Does not end the command."""
        ...


class TerminalSize(NamedTuple):
    """How many characters a terminal shows."""

    rows: int
    columns: int


class Terminal(Protocol):
    """A command inside a node on a terminal of its own, which is its controlling one, until `aclose`."""

    async def receive(self) -> bytes:
        """Return what the terminal shows next, never empty.

        Raises:
            anyio.EndOfStream: the command has ended, and all of it was received.
        """
        ...

    async def send(self, data: bytes) -> None:
        """Type something.

        Raises:
            anyio.BrokenResourceError: the terminal is gone, most likely since the command has ended.
        """
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is now; nothing happens when the command has ended."""
        ...

    async def wait(self) -> int:
        """Return the exit code once the command has ended; as `RunningCommand.wait`.

        Raises:
            NodeDied: the node ended first.
        """
        ...

    async def aclose(self) -> None:
        """Hang up. A command that has not ended is killed, with everything that it has started."""
        ...


class Launcher(Protocol):
    """Whatever can start commands in a node."""

    async def start(self, command: Command, *, stdin: bool = False) -> RunningCommand:
        """Start a command. Without `stdin` it reads from the null device.

        Raises:
            NodeDied: the node is gone.
        """
        ...


class Transport(Launcher, Protocol):
    """A way into one running node. Every path named `remote` is a path inside the node.

    File operations raise `OSError` with the node's own errno and path; `Node` makes a `LabError`
    of it.
    """

    async def open_terminal(self, command: Command, size: TerminalSize, term: str) -> Terminal:
        """Start a command on a terminal of its own; `term` is the terminal's kind, as in `$TERM`.

        Raises:
            NodeDied: the node is gone.
        """
        ...

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a directory tree into the node: `cp -a` rules for the target."""
        ...

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a directory tree out of the node: `cp -a` rules for the target."""
        ...

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file."""
        ...

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file; `mode` is set on it when given. Parents must exist."""
        ...

    async def aclose(self) -> None:
        """Let go of the node."""
        ...
