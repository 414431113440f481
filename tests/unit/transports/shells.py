"""A transport to this machine itself: a shell with its tools, as a container would have them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import anyio

from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.tar_files import TarFiles

TOOLS = ("sh", "cat", "tar", "chmod", "touch", "mkdir")


def toolbox(kind: str, directory: Path) -> Path:
    """Make a directory with nothing but the tools of one kind in it: gnu or busybox."""
    directory.mkdir()
    for tool in TOOLS:
        found = shutil.which("busybox" if kind == "busybox" else tool)
        assert found, f"{kind} is not installed"
        (directory / tool).symlink_to(Path(found).resolve() if kind == "busybox" else found)
    return directory


class _Reader:
    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        data = await self._stream.read(1 << 16)
        if not data:
            raise anyio.EndOfStream
        return data


class _Writer:
    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            await self._stream.drain()
        except ConnectionError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        self._stream.close()
        with suppress(ConnectionError):
            await self._stream.wait_closed()


class _Running:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin = _Writer(process.stdin) if process.stdin else None
        self.stdout = _Reader(process.stdout)
        self.stderr = _Reader(process.stderr)
        self.was_killed = False

    async def wait(self) -> int:
        return await self.process.wait()

    async def send_signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    async def kill_tree(self) -> None:
        self.was_killed = True
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._close()  # else its end waits for somebody to read its output
        await self.process.wait()

    async def aclose(self) -> None:
        self._close()
        if self.stdin is not None:
            await self.stdin.aclose()

    def _close(self) -> None:
        self.process._transport.close()  # type: ignore[attr-defined]  # there is no public way


class ShellTransport(TarFiles):
    """`prefix` goes before every command, such as one that gives its user away."""

    def __init__(self, tools: Path, prefix: tuple[str, ...] = ()) -> None:
        super().__init__(self)
        self.tools = tools
        self.prefix = prefix
        self.started: list[_Running] = []

    async def start(self, command: Command, *, stdin: bool = False) -> _Running:
        assert command.argv[0] == "/bin/sh"
        process = await asyncio.create_subprocess_exec(
            *self.prefix,
            str(self.tools / "sh"),
            *command.argv[1:],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": str(self.tools), **command.env},
            start_new_session=True,
            umask=0o027,
        )
        self.started.append(_Running(process))
        return self.started[-1]

    async def aclose(self) -> None:
        """Nothing to let go of."""
