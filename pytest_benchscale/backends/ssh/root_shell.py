"""A shell of root's at the other end of an ssh connection; when we are gone, it undoes what it has done."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import anyio

from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.streams import STDOUT, Stream

__all__ = ["RootShell", "Start"]

Start = Callable[[Command], Awaitable[Stream]]
"""Starts a command at the other end, with our input."""

# It runs line by line what comes, and at the end of its input what `undo` holds: so it does when the
# connection has broken, or we were killed. Nothing else ends it but the one that comes after it.
_SCRIPT = """\
undone() { trap '' TERM; eval "$undo" </dev/null >/dev/null 2>&1; exit; }
trap '' HUP INT PIPE
trap undone TERM
PATH=$PATH:/usr/sbin:/sbin
undo=
echo; echo "$1 0"
while IFS= read -r line; do
eval "$line" </dev/null 2>&1
r=$?; echo; echo "$1 $r"
done
undone
"""
# The machine may not know yet that the connection of an earlier one has broken. The pattern finds the
# earlier one's name, and not itself.
_RELIEVE = """\
i=0; while [ $i -lt 100 ]; do p=$(grep -ls -- {pattern} /proc/[0-9]*/cmdline); [ -n "$p" ] || break; \
for d in $p; do d=${{d#/proc/}}; kill ${{d%/cmdline}} 2>/dev/null; done; i=$((i+1)); sleep 0.1; done"""
_WORD = "benchscale-said"
_SECONDS = 60.0  # for one line, and for the end


class RootShell:
    """One such shell, from `begin` to `end`.

    `where` is what it is on, as the subject of a sentence; `node` the name of the node, if it is one.
    """

    def __init__(self, where: str, node: str | None = None, timeout_scale: float = 1.0) -> None:
        self._where = where
        self._node = node
        self._seconds = _SECONDS * timeout_scale
        self._tag = f"benchscale-{uuid.uuid4()}"
        self._stream: Stream | None = None
        self._said = b""
        self._complaint = b""
        self._news = anyio.Event()
        self._has_ended = False

    @property
    def is_there(self) -> bool:
        """Whether it was started and has not ended."""
        return self._stream is not None and not self._has_ended

    async def begin(self, start: Start) -> None:
        """Start it.

        Raises:
            LabError: the login may not be root, or there is no shell.
            BenchscaleError: there is no connection.
        """
        argv = ("/bin/sh", "-c", _SCRIPT, self._tag, _WORD)
        self._stream = await start(Command(argv, user="root"))
        self._stream.deliver_to(self)
        if await self._answer() is None:
            self._stream.close()
            raise self._stream.failure or LabError(
                f"{self._where}: the login has not the right to set conditions there",
                node=self._node,
                step="conditions",
                details=self._words(),
                resolution="log in as root, or let the user run everything by sudo without a password: "
                "`USER ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers",
            )

    async def relieve(self, other: RootShell) -> None:
        """Have the machine end an earlier one, if that is still there, and undo what it was told to."""
        pattern = f"'{other._tag[:-1]}[{other._tag[-1]}]'"
        await self.ask(_RELIEVE.format(pattern=pattern))

    async def ask(self, line: str) -> tuple[int, str]:
        """Run a line; return its exit code and what it wrote.

        Raises:
            BenchscaleError: the connection broke, or nothing came for a minute. What the line did is not
                known then, and is undone.
        """
        assert self._stream is not None  # noqa: S101  it was begun
        self._said = b""
        try:
            await self._stream.send(f"{line}\n".encode())
        except anyio.BrokenResourceError:
            raise self._lost() from None
        answer = await self._answer()
        if answer is None:
            raise self._lost()
        return answer

    async def end(self) -> None:
        """Have it undo what is to be undone, and wait for that. Safe to call twice."""
        if self._stream is None:
            return
        self._stream.end_input()
        with anyio.move_on_after(self._seconds):
            while not self._has_ended:
                await self._news.wait()
        self._stream.close()
        self._stream = None

    async def _answer(self) -> tuple[int, str] | None:
        """Return what the last line came to; None: it has ended before, or says nothing."""
        mark = f"\n{_WORD} ".encode()
        with anyio.move_on_after(self._seconds):
            while True:
                output, found, rest = self._said.partition(mark)
                if found and rest.endswith(b"\n"):
                    return int(rest), output.decode(errors="replace").strip()
                if self._has_ended:
                    return None
                await self._news.wait()
        return None

    def _lost(self) -> BenchscaleError:
        assert self._stream is not None  # noqa: S101  it was begun
        self._has_ended = True
        self._stream.close()
        return self._stream.failure or LabError(
            f"{self._where}: the shell that sets conditions there has ended, or does not answer",
            node=self._node,
            step="conditions",
            details=self._words(),
            resolution="look at the machine: what was set there is taken back as soon as it can be",
        )

    def _words(self) -> str | None:
        return self._complaint.decode(errors="replace").strip()[-1000:] or None

    # --- what comes from there ---

    def received(self, stream: int, data: bytes) -> None:
        """Take what it says."""
        if stream == STDOUT:
            self._said += data
        else:
            self._complaint += data
        self._tell()

    def closed(self) -> None:
        """Take note of its end."""
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()
