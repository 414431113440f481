"""The transport into one node: asks its init, which runs inside all the node's namespaces."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from pytest_benchscale.errors import LabError, NodeDied
from pytest_benchscale.transports.base import Command, TerminalSize
from pytest_benchscale.transports.namespace import files
from pytest_benchscale.transports.namespace.channel import MARKER, Message
from pytest_benchscale.transports.namespace.endpoint import Endpoint
from pytest_benchscale.transports.namespace.streams import PipeReader, PipeWriter
from pytest_benchscale.transports.namespace.terminal import NamespaceTerminal

__all__ = ["NamespaceTransport"]

_AT_ONCE = 16  # descriptors in a message
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK


class NamespaceCommand:
    """A command that a node's init has started."""

    def __init__(
        self, transport: NamespaceTransport, number: int, marker: str, pipes: tuple[int, int, int]
    ) -> None:
        self._transport = transport
        self._number = number
        self._marker = marker
        # A pipe has the same inode at both ends: whoever holds ours belongs to the command.
        self._pipes = [os.fstat(fd).st_ino for fd in pipes if fd >= 0]
        self.stdout = PipeReader(pipes[0])
        self.stderr = PipeReader(pipes[1])
        self.stdin = PipeWriter(pipes[2]) if pipes[2] >= 0 else None
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        return await asyncio.shield(self._status)

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the command itself."""
        if not self._status.done():
            await self._transport.post({"op": "signal", "id": self._number, "signal": int(signum)})

    async def kill_tree(self) -> None:
        """Kill the command and everything it started; return when they are gone."""
        await self._transport.kill(self._number, self._marker, self._pipes)

    async def aclose(self) -> None:
        """Let go of the streams; a background child's further output is discarded."""
        if self.stdin is not None:
            self.stdin.close()
        self.stdout.close()
        self.stderr.close()
        if not self._status.done():
            self._status.cancel()

    def ended(self, status: int) -> None:
        """Take note of the command's end."""
        self.stdout.finish()
        self.stderr.finish()
        if not self._status.done():
            self._status.set_result(status)

    def lost(self, error: NodeDied) -> None:
        """Take note of the node's end."""
        self.stdout.finish()
        self.stderr.finish()
        if not self._status.done():
            self._status.set_exception(error)
            self._status.exception()  # perhaps nobody waits; that is no error


class NamespaceTransport:
    """The way into a running node. Lives from the node's start to its end.

    `on_close` is called once, when the node's init is gone or `close` was called; `why_ended` then
    tells why, for `NodeDied`.
    """

    def __init__(
        self,
        node: str,
        sock: socket.socket,
        *,
        on_event: Callable[[Message, list[int]], None],
        on_close: Callable[[], None],
        why_ended: Callable[[], str],
    ) -> None:
        self.node = node
        self._on_event = on_event
        self._on_close = on_close
        self._why_ended = why_ended
        self._commands: dict[int, NamespaceCommand | NamespaceTerminal] = {}
        self._draining: set[PipeReader] = set()
        self._last = 0
        self._gone = asyncio.Event()
        self._endpoint = Endpoint(sock, self._event, self._closed)

    async def start(self, command: Command, *, stdin: bool = False) -> NamespaceCommand:
        """Start a command; raises `NodeDied` when the node is gone."""
        self._last += 1
        number = self._last
        marker = f"{number}-{os.urandom(6).hex()}"
        ours, theirs = _make_pipes(stdin=stdin)
        try:
            running = NamespaceCommand(self, number, marker, ours)
            self._commands[number] = running
            await self.post(
                {
                    "op": "exec",
                    "id": number,
                    "argv": command.argv,
                    "env": {**command.env, MARKER: marker},
                    "cwd": command.cwd,
                    "user": command.user,
                    "stdin": stdin,
                },
                theirs,
            )
        except BaseException:
            self._commands.pop(number, None)
            await running.aclose()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return running

    async def open_terminal(
        self, command: Command, size: TerminalSize, term: str
    ) -> NamespaceTerminal:
        """Start a command on a terminal of its own; raises `NodeDied` when the node is gone."""
        answer, ends = await self.request("terminal")
        if "errno" in answer:
            reason = os.strerror(answer["errno"])
            raise LabError(
                f"node {self.node!r} has no terminal to give: {reason}",
                node=self.node,
                step="terminal",
            )
        self._last += 1
        number = self._last
        marker = f"{number}-{os.urandom(6).hex()}"
        master, slave = ends
        terminal = NamespaceTerminal(master, lambda: self.kill(number, marker, []))
        terminal.set_up(size)
        self._commands[number] = terminal
        try:
            await self.post(
                {
                    "op": "exec",
                    "id": number,
                    "argv": command.argv,
                    "env": {"TERM": term, **command.env, MARKER: marker},
                    "cwd": command.cwd,
                    "user": command.user,
                    "terminal": answer["path"],
                },
                (slave,),
            )
        except BaseException:
            self._commands.pop(number, None)
            terminal.close()
            raise
        finally:
            os.close(slave)
        return terminal

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree into the node."""
        directory, name = files.split(os.path.abspath(local))  # noqa: ASYNC240 - no I/O
        async with (
            _local_directory(directory) as source,
            self._target(remote, name) as (target, new_name),
        ):
            await anyio.to_thread.run_sync(files.copy_entry, source, name, target, new_name)

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree out of the node."""
        directory, name = files.split(remote)
        text = os.fspath(local)
        into = os.path.isdir(local)  # noqa: ASYNC240 - one look at the machine's own files
        target_directory, new_name = (text, name) if into else files.split(text)
        async with (
            self._opened(directory, _DIRECTORY) as source,
            _local_directory(target_directory) as target,
        ):
            await anyio.to_thread.run_sync(files.copy_entry, source, name, target, new_name)

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file."""
        async with self._opened(remote, os.O_RDONLY | os.O_NONBLOCK) as fd:
            return await anyio.to_thread.run_sync(_read_all, fd)

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file."""
        async with self._opened(remote, _WRITE, 0o644) as fd:
            await anyio.to_thread.run_sync(_write_all, fd, data)
            if mode is not None:
                os.fchmod(fd, mode)

    async def aclose(self) -> None:
        """Let go of the node; what its background children still write is the node's to discard."""
        outputs = [reader for reader in self._draining if reader.is_open]
        with suppress(NodeDied):
            for first in range(0, len(outputs), _AT_ONCE):
                some = tuple(one.fileno() for one in outputs[first : first + _AT_ONCE])
                await self.post({"op": "abandon"}, some)
        self.close()

    def close(self) -> None:
        """Let go of the node."""
        self._endpoint.close()
        for reader in self._draining:
            reader.abandon()
        self._draining.clear()

    async def wait_gone(self) -> None:
        """Return once the node's init is gone."""
        await self._gone.wait()

    async def post(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message without an answer; raises `NodeDied`."""
        try:
            await self._endpoint.send(message, descriptors)
        except ConnectionError:
            raise self._died() from None

    async def request(
        self, operation: str, descriptors: tuple[int, ...] = (), **fields: object
    ) -> tuple[Message, list[int]]:
        """Ask the node's init and return its answer; raises `NodeDied`."""
        try:
            return await self._endpoint.request(operation, descriptors, **fields)
        except ConnectionError:
            raise self._died() from None

    async def kill(self, number: int, marker: str, pipes: list[int]) -> None:
        """Kill a command and everything it started; return when they are gone."""
        try:
            answer, _ = await self.request("kill", (), id=number, marker=marker, pipes=pipes)
        except NodeDied:
            return  # and with it everything in it
        if answer["left"]:
            raise LabError(
                f"{answer['left']} processes of a killed command are still there",
                node=self.node,
                step="kill",
                details="they do not react to SIGKILL: waiting for a device or a file system?",
            )

    @asynccontextmanager
    async def _opened(self, path: str, flags: int, mode: int = 0) -> AsyncIterator[int]:
        answer, descriptors = await self.request("open", (), path=path, flags=flags, mode=mode)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), path)
        try:
            yield descriptors[0]
        finally:
            os.close(descriptors[0])

    @asynccontextmanager
    async def _target(self, remote: str, source_name: str) -> AsyncIterator[tuple[int, str]]:
        """Open the directory that a copy goes to: the target itself, or the one it is to be in."""
        if await self._is_directory(remote):
            directory, name = remote, source_name
        else:
            directory, name = files.split(remote)
        async with self._opened(directory, _DIRECTORY) as fd:
            yield fd, name

    async def _is_directory(self, remote: str) -> bool:
        try:
            async with self._opened(remote, _DIRECTORY):
                return True
        except OSError as error:
            may_be_made = error.errno == errno.ENOENT and not remote.endswith("/")
            if may_be_made or error.errno == errno.ENOTDIR:
                return False
            raise

    def _event(self, message: Message, descriptors: list[int]) -> None:
        if "exit" not in message:
            self._on_event(message, descriptors)
            return
        running = self._commands.pop(message["exit"], None)
        if running is None:
            return
        running.ended(message["status"])
        if isinstance(running, NamespaceCommand):
            self._draining = {reader for reader in self._draining if reader.is_open}
            self._draining |= {running.stdout, running.stderr}

    def _closed(self) -> None:
        self._on_close()
        self._gone.set()
        commands, self._commands = self._commands, {}
        for running in commands.values():
            running.lost(self._died())

    def _died(self) -> NodeDied:
        return NodeDied(self.node, self._why_ended())


def _make_pipes(*, stdin: bool) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Return our ends (stdout, stderr, stdin or -1) and the command's ends of new pipes."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    if not stdin:
        return (out_read, err_read, -1), (out_write, err_write)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    return (out_read, err_read, in_write), (out_write, err_write, in_read)


@asynccontextmanager
async def _local_directory(path: str) -> AsyncIterator[int]:
    fd = os.open(path, _DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        return file.read()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
