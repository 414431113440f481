"""A fake node: files, processes as tasks, and the way into it."""

from __future__ import annotations

import asyncio
import copy
import fnmatch
import itertools
import re
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from pytest_benchscale.backends.base import NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.errors import NodeDied
from pytest_benchscale.transports.base import Command, TerminalSize
from tests.fake_backend.files import Files
from tests.fake_backend.job import Exit, Job, Write
from tests.fake_backend.shell import run_argv
from tests.fake_backend.terminal import FakeTerminal

__all__ = ["FakeNode", "FakeTransport"]

_BUFFER = 1 << 16  # bytes that a writer may be ahead of the reader, as in a pipe
_STATES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


class FakeNode:
    """What there is of one node. Its processes are tasks in the loop of the lab."""

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.files = Files()
        self.kept_files: Files | None = None
        self.log = ""
        self.listening: list[tuple[str, int]] = []
        self.status = NodeStatus.RUNNING
        self.reason: str | None = None
        self.tasks: set[asyncio.Task[int]] = set()
        self.ended = asyncio.Event()
        self.awake = asyncio.Event()  # not set: paused, and every command stands still
        self.awake.set()
        self.processes: dict[int, tuple[str, ...]] = {}
        self._pids = itertools.count(100)

    @contextmanager
    def process(self, argv: tuple[str, ...]) -> Iterator[None]:
        """List a program among the running ones for the duration of a block."""
        pid = next(self._pids)
        self.processes[pid] = argv
        try:
            yield
        finally:
            del self.processes[pid]

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that a pattern stands for; only processes can be listed so."""
        return fnmatch.filter((f"/proc/{pid}/cmdline" for pid in self.processes), pattern)

    def info(self) -> NodeInfo:
        return NodeInfo(
            self.plan.name,
            self.status,
            {one.network: one.address.ip for one in self.plan.interfaces},
            {one.network: one.device for one in self.plan.interfaces},
            self.reason,
        )

    def read(self, path: str) -> bytes:
        """Read a file; the kernel's tables of sockets are made up on the spot."""
        if listed := re.fullmatch(r"/proc/(\d+)/cmdline", path):
            argv = self.processes.get(int(listed[1]), ())
            return b"".join(word.encode() + b"\0" for word in argv)
        table = path.removeprefix("/proc/net/")
        if table not in _STATES:
            return self.files.read(path)
        lines = ["  sl  local_address rem_address   st tx_queue rx_queue"]
        for number, (protocol, port) in enumerate(self.listening):
            if protocol == table:
                address = "0" * (32 if table.endswith("6") else 8)
                lines.append(f"   {number}: {address}:{port:04X} {address}:0000 {_STATES[table]} 0")
        return "\n".join(lines).encode()

    def checkpoint(self) -> None:
        self.kept_files = copy.deepcopy(self.files)

    def reset(self) -> None:
        """Start anew with the files of the checkpoint."""
        assert self.kept_files is not None
        self.end(NodeStatus.STOPPED)
        self.files = copy.deepcopy(self.kept_files)
        self.start()

    def die(self, reason: str) -> None:
        """End by itself."""
        self.end(NodeStatus.DEAD, reason)

    def end(self, status: NodeStatus, reason: str | None = None) -> None:
        self.status, self.reason = status, reason
        self.awake.set()
        for task in self.tasks:
            task.cancel()
        self.ended.set()

    def start(self) -> None:
        self.status, self.reason = NodeStatus.RUNNING, None
        self.tasks.clear()
        self.ended = asyncio.Event()

    def pause(self) -> None:
        self.status = NodeStatus.PAUSED
        self.awake.clear()

    def resume(self) -> None:
        self.status = NodeStatus.RUNNING
        self.awake.set()


class _Pipe:
    """An output stream: its writer waits when it is too far ahead."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        while self._size >= _BUFFER and not self._closed:
            await self._changed.wait()
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._tell()

    async def receive(self) -> bytes:
        while not self._chunks:
            if self._closed:
                raise anyio.EndOfStream
            await self._changed.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        self._tell()
        return data


class _Stdin:
    """A standard input: a queue of one chunk, so that a writer waits for its reader."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(1)
        self.broken = asyncio.Event()
        self._over = False

    async def send(self, data: bytes) -> None:
        if self.broken.is_set():
            raise anyio.BrokenResourceError
        put = asyncio.ensure_future(self._queue.put(data))
        broken = asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait({put, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not put.done():
                raise anyio.BrokenResourceError
        finally:
            put.cancel()
            broken.cancel()

    async def aclose(self) -> None:
        await self.send(b"")

    async def read(self) -> bytes:
        if self._over:
            return b""
        data = await self._queue.get()
        self._over = not data
        return data


class _Running:
    """A command in a fake node."""

    def __init__(self, node: FakeNode, command: Command, *, stdin: bool) -> None:
        self._node = node
        self._node_ended = node.ended
        self._signal: int | None = None
        self.stdin = _Stdin() if stdin else None
        self.stdout, self.stderr = _Pipe(), _Pipe()
        self._job = Job(
            node,
            env={**node.plan.env, **command.env},
            cwd=command.cwd or "/",
            user=command.user or "root",
            read=self.stdin.read if self.stdin else _nothing,
            out=self._held(self.stdout),
            err=self._held(self.stderr),
        )
        self._task = asyncio.create_task(self._run(command.argv))
        self._task.add_done_callback(self._over)
        node.tasks.add(self._task)

    def _held(self, pipe: _Pipe) -> Write:
        async def write(data: bytes) -> None:
            await self._node.awake.wait()
            await pipe.write(data)

        return write

    async def _run(self, argv: tuple[str, ...]) -> int:
        try:
            await self._node.awake.wait()
            if not self._node.files.is_dir(self._job.cwd):
                return await self._job.complain(f"{self._job.cwd}: no such directory", 126)
            if not self._job.user.isdigit() and self._job.user not in {"root", "nobody"}:
                return await self._job.complain(f"{self._job.user}: no such user", 126)
            return await run_argv(self._job, argv)
        except Exit as exc:
            return exc.code
        except asyncio.CancelledError:
            if self._node_ended.is_set():
                raise
            return -(self._signal or signal.SIGKILL)

    def _over(self, _: asyncio.Task[int]) -> None:
        """Close the streams; also when the task was cancelled before it began."""
        self.stdout.close()
        self.stderr.close()
        if self.stdin:
            self.stdin.broken.set()

    async def wait(self) -> int:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise NodeDied(self._node.plan.name, self._node.reason or "it ended") from None
            raise

    async def send_signal(self, signum: int) -> None:
        if signal.Signals(signum).name.removeprefix("SIG") not in self._job.ignored:
            self._signal = signum
            self._task.cancel()

    async def kill_tree(self) -> None:
        self._signal = self._signal if self._task.done() else signal.SIGKILL
        tasks = {self._task, *self._job.children}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def aclose(self) -> None:
        if self.stdin:
            self.stdin.broken.set()


class FakeTransport:
    """The way into a fake node."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._ended = node.ended

    def _alive(self) -> FakeNode:
        if self._ended.is_set():
            raise NodeDied(self._node.plan.name, self._node.reason or "it ended")
        return self._node

    async def start(self, command: Command, *, stdin: bool = False) -> _Running:
        return _Running(self._alive(), command, stdin=stdin)

    async def open_terminal(self, command: Command, size: TerminalSize, term: str) -> FakeTerminal:
        self._alive()
        return FakeTerminal(command, size, term)

    async def put(self, local: Path, remote: str) -> None:
        self._alive().files.put(local, remote)

    async def get(self, remote: str, local: Path) -> None:
        self._alive().files.take(remote, local)

    async def read_bytes(self, remote: str) -> bytes:
        return self._alive().read(remote)

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        self._alive().files.write(remote, data, mode)

    async def aclose(self) -> None:
        pass


async def _nothing() -> bytes:
    return b""
