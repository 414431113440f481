"""One shell that waits in a node: it runs one command at a time, then waits again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell import agent
from pytest_benchscale.transports.shell.agent import Ending, Hello, Words
from pytest_benchscale.transports.shell.streams import (
    STDERR,
    STDOUT,
    Inbox,
    NoteFinder,
    Outbox,
    Stream,
)

__all__ = ["Host", "NoShell", "Refused", "Session", "SessionCommand"]

_HELLO_SECONDS = 60.0
_KILLED = -9
_LONGEST_REASON = 4096


class NoShell(Exception):
    """The node has no shell that could wait."""


class Refused(Exception):
    """No shell was started, for a reason that was told in its place: the text."""


class Host(Protocol):
    """Who a session belongs to."""

    async def fate(self) -> BenchscaleError | None:
        """Return why connections break: the node, or what it runs on, is gone; None: neither is."""
        ...

    async def signal(self, command: SessionCommand, signum: int) -> None:
        """Send a signal to a command's process."""
        ...

    async def kill(self, command: SessionCommand) -> None:
        """Kill a command and everything it started."""
        ...

    def released(self, session: Session, *, clean: bool) -> None:
        """Take a session back that has run its command; one that is not clean is of no more use."""
        ...


class Session:
    """A waiting shell, or one that runs `command`."""

    def __init__(self, host: Host, user: str | None, stream: Stream) -> None:
        self.user = user
        self.hello = Hello(0, is_able=False, is_bash=False)
        self.command: SessionCommand | None = None
        self._host = host
        self._stream = stream
        self._words = Words.new()
        self._early = b""  # what was said instead of a hello
        self._held = 0
        self._is_clean: bool | None = None  # what the shell said of its outputs, after a command
        self._ready: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        word = self._words.note.encode()
        self._finders = {
            STDOUT: NoteFinder(word, lambda data: self._data(STDOUT, data), self._note_on_stdout),
            STDERR: NoteFinder(word, lambda data: self._data(STDERR, data), self._note_on_stderr),
        }

    @classmethod
    async def open(cls, host: Host, user: str | None, stream: Stream) -> Session:
        """Begin a session on the streams of a shell that was started with `BOOT`.

        Raises:
            NoShell: there is no shell, or one that lacks what we need.
            Refused: it was not started.
        """
        session = cls(host, user, stream)
        try:
            session._stream.deliver_to(session)
            session._stream.write(agent.hello_script(session._words))
            with anyio.fail_after(_HELLO_SECONDS):
                session.hello = await session._ready
        except TimeoutError:
            session.close()
            raise NoShell("its shell did not answer") from None
        except BaseException:
            session.close()
            raise
        if not session.hello.is_able:
            session.close()
            raise NoShell("its shell cannot compare files")
        return session

    @property
    def is_open(self) -> bool:
        """Whether the shell is still there."""
        return not self._stream.is_closed

    def run(self, command: Command, *, stdin: bool) -> SessionCommand:
        """Tell the waiting shell to run a command; see `agent.command_script`."""
        marker = os.urandom(8).hex()
        outbox = Outbox(self._stream) if stdin else None
        self.command = running = SessionCommand(self, self._host, marker, outbox)
        running.stdout.on_drained = running.stderr.on_drained = self._drained
        script = agent.command_script(self._words, command, marker, stdin=stdin)
        self._stream.write(script)
        return running

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the session from its next command, while who holds its outputs is looked for."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._release()

    def close(self) -> None:
        """Drop the connection: a waiting shell ends, a command goes on without us."""
        self._stream.close()

    # --- what comes from the shell ---

    def received(self, stream: int, data: bytes) -> None:
        """Take output, with notes in it."""
        self._finders[stream].feed(data)

    def closed(self) -> None:
        """Take note of the end of the shell, or of the connection."""
        if not self._ready.done():
            said = self._early.decode(errors="replace").strip()
            self._ready.set_exception(_why_no_session(said))
            self._ready.exception()  # perhaps nobody waits any more
        command, self.command = self.command, None
        if command is not None:
            command.cut_off(self._stream.failure)
        self._host.released(self, clean=False)

    def _data(self, stream: int, data: bytes) -> None:
        if self.command is None:
            if not self._ready.done():
                self._early += data[:_LONGEST_REASON]
            return
        inbox = self.command.stdout if stream == STDOUT else self.command.stderr
        inbox.put(data)
        if inbox.is_full:
            self._stream.pause()

    def _drained(self) -> None:
        command = self.command
        if command is None or not (command.stdout.is_full or command.stderr.is_full):
            self._stream.resume()

    def _note_on_stdout(self, note: bytes) -> None:
        kind, text = note[:1], note[1:].decode(errors="replace")
        command = self.command
        if kind == b"h" and not self._ready.done():
            self._ready.set_result(Hello.parse(text))
        elif kind == b"p" and command is not None:
            pid, _, parent = text.partition(" ")
            command.begun(int(pid), int(parent))
        elif kind == b"e" and command is not None:
            code = Ending.parse(text).returncode(command.sent, is_bash=self.hello.is_bash)
            command.half_ended(code)
        elif kind == b"c":
            self._is_clean = text == "1"
            self._release()

    def _note_on_stderr(self, note: bytes) -> None:
        if note == b"e" and self.command is not None:
            self.command.half_ended(None)
            self._release()

    def _release(self) -> None:
        """Be free for the next command, once both outputs have told of the end of this one."""
        command = self.command
        if command is None or self._is_clean is None or not command.has_ended or self._held:
            return
        # A command with an input has used up the connection in that direction.
        reusable = self._is_clean and command.stdin is None
        self.command = self._is_clean = None
        self._host.released(self, clean=reusable)


def _why_no_session(said: str) -> NoShell | Refused:
    """Return what it means that the shell did not start; `said` is what was told in its place."""
    if "/bin/sh" in said or not said:
        return NoShell(said or "/bin/sh ended at once")
    return Refused(said)


class SessionCommand:
    """A command that a session's shell has been told to run."""

    def __init__(self, session: Session, host: Host, marker: str, stdin: Outbox | None) -> None:
        self.session = session
        self.marker = marker
        self.stdin = stdin
        self.stdout = Inbox()
        self.stderr = Inbox()
        self.pid = self.parent = 0
        self.sent: set[int] = set()  # signals that we have sent
        self._host = host
        self._begun = asyncio.Event()
        self._halves = 0
        self._code = 0
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its end is known."""
        return self._status.done()

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        return await asyncio.shield(self._status)

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the command itself."""
        await self.until_begun()
        if not self.has_ended:
            self.sent.add(int(signum))
            await self._host.signal(self, signum)

    async def kill_tree(self) -> None:
        """Kill the command and everything it started; return when they are gone."""
        await self.until_begun()
        self.sent.add(signal.SIGKILL)
        await self._host.kill(self)

    @contextmanager
    def holding(self) -> Iterator[int]:
        """Hold the session, if it is still this command's; the value is its shell's process, else 0."""
        if self.session.command is not self:
            yield 0
            return
        with self.session.held():
            yield self.session.hello.pid

    async def aclose(self) -> None:
        """Let go of the streams. A command that has not ended goes on, and its session is lost."""
        self.stdout.abandon()
        self.stderr.abandon()
        if self.has_ended and self.stdin is None:
            self.session._drained()  # noqa: SLF001  they are two halves of one thing
        else:
            self.session.close()

    async def until_begun(self) -> None:
        """Return when the command's process is known, or its end."""
        await self._begun.wait()

    def begun(self, pid: int, parent: int) -> None:
        """Take note of the command's process, and of the shell that waits for it."""
        self.pid, self.parent = pid, parent
        self._begun.set()

    def half_ended(self, code: int | None) -> None:
        """Take note of the end of one output; the first one's note brings the exit code."""
        if code is None:
            self.stderr.end()
        else:
            self._code = code
            self.stdout.end()
        self._halves += 1
        if self._halves == 2:
            self._begun.set()
            if not self._status.done():
                self._status.set_result(self._code)

    def lost(self, error: BenchscaleError) -> None:
        """Take note of the end of the node."""
        if not self._status.done():
            self._status.set_exception(error)
            self._status.exception()  # perhaps nobody waits; that is no error
        self._end_streams()

    def cut_off(self, failure: BenchscaleError | None) -> None:
        """Take note that the shell is gone, or the connection: find out why, then tell."""
        if not self._status.done():
            self._task = asyncio.get_running_loop().create_task(self._learn(failure))

    async def _learn(self, failure: BenchscaleError | None) -> None:
        error = await self._host.fate() or failure
        if error is not None:
            self.lost(error)
            return
        if not self._status.done():  # its shell was killed, and most likely it, too
            self._status.set_result(_KILLED)
        self._end_streams()

    def _end_streams(self) -> None:
        self.stdout.end()
        self.stderr.end()
        self._begun.set()
