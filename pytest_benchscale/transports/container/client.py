"""The transport into one container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, NodeDied
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command, RunningCommand, TerminalSize
from pytest_benchscale.transports.container import execs
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.container.archive_files import ArchiveFiles
from pytest_benchscale.transports.container.hijack import RawStream
from pytest_benchscale.transports.container.plain import PlainCommand, as_error, refusal_code
from pytest_benchscale.transports.container.terminal import ContainerTerminal
from pytest_benchscale.transports.shell.refused import RefusedCommand
from pytest_benchscale.transports.shell.session import NoShell, Refused
from pytest_benchscale.transports.shell.shells import Shells
from pytest_benchscale.transports.shell.tar_files import TarFiles
from pytest_benchscale.transports.shell.terminals import prepared

__all__ = ["ContainerTransport"]

_LOOK_SECONDS = 10.0
_ROOT = "0"
_FILE_TOOLS = Command(
    ("/bin/sh", "-c", "for t in tar cat chmod touch; do command -v $t || exit; done")
)


class ContainerTransport:
    """The way into a running container. Lives from the container's start to its end.

    Commands run in waiting sessions where the image has a shell for them, else as exec sessions of
    their own. `fate` tells why connections break: an error, or None when the container runs.
    """

    def __init__(
        self,
        node: str,
        api: DaemonApi,
        container: str,
        *,
        fate: Callable[[], Awaitable[BenchscaleError | None]],
    ) -> None:
        self.node = node
        self._api = api
        self._container = container
        self._fate = fate
        self._shells = Shells(node, self, self._start_exec, fate, self._starting)
        self._plain: set[PlainCommand] = set()
        self._has_shell = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._none_opening = asyncio.Event()
        self._none_opening.set()
        self._may_open = asyncio.Event()
        self._may_open.set()
        self._files: TarFiles | ArchiveFiles | None = None

    async def start(self, command: Command, *, stdin: bool = False) -> RunningCommand:
        """Start a command; raises `NodeDied` when the node is gone."""
        try:
            if self._has_shell:
                try:
                    return await self._shells.start(command, stdin=stdin)
                except NoShell:
                    self._has_shell = False
            return await self._start_plain(command, stdin=stdin)
        except Refused as refused:
            return await self._refused(str(refused), 0)
        except ApiError as error:
            return await self._refused(error.explanation, error.status)
        except BackendUnavailable as error:
            raise await self._fate() or error from None

    async def open_terminal(
        self, command: Command, size: TerminalSize, term: str
    ) -> ContainerTerminal:
        """Start a command on a terminal of its own; raises `NodeDied` when the node is gone."""
        marker = os.urandom(8).hex()
        with_shell = await self._runs_shells()
        ready = prepared(command, size, term, marker)
        if not with_shell:
            ready = replace(ready, argv=command.argv)
        try:
            running = await self._start_plain(ready, stdin=True, terminal=size)
        except ApiError as error:
            raise await self._fate() or as_error(error) from None
        except BackendUnavailable as error:
            raise await self._fate() or error from None
        kill = partial(self._shells.kill_marked, marker, _ROOT) if with_shell else running.kill_tree
        return ContainerTerminal(running, kill)

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree into the node."""
        async with self._file_work() as files:
            await files.put(local, remote)

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree out of the node."""
        async with self._file_work() as files:
            await files.get(remote, local)

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file."""
        async with self._file_work() as files:
            return await files.read_bytes(remote)

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file."""
        async with self._file_work() as files:
            await files.write_bytes(remote, data, mode)

    async def aclose(self) -> None:
        """Let go of the node."""
        self.close()

    def close(self) -> None:
        """Let go of the node; waiting shells end."""
        self.lost(NodeDied(self.node, "it was let go of"))

    def prepare(self) -> None:
        """Set the first session up in the background, once no bring-up needs the daemon."""
        self._spawn(self._prepare())

    async def quiesce(self) -> None:
        """Return when nothing is being started in the container, and start nothing more.

        What is half-way into a container that is frozen would hold up the daemon.
        """
        self._may_open.clear()
        await self._none_opening.wait()
        with suppress(ApiError):  # there is nothing to hold up, then
            for command in self._plain:
                await command.until_started()

    def resume(self) -> None:
        """Undo `quiesce`."""
        self._may_open.set()

    def lost(self, error: BenchscaleError) -> None:
        """Take note that the node, or its daemon, is gone: everything in flight ends with this error."""
        self._shells.lost(error)
        for task in self._tasks:
            task.cancel()
        for command in self._plain:
            command.lost(error)

    async def _start_exec(self, command: Command) -> RawStream:
        exec_id = await execs.create(self._api, self._container, command, stdin=True)
        return await execs.start(self._api, exec_id)

    async def _refused(self, words: str, status: int) -> RefusedCommand:
        """Return a command that the daemon would not start, unless it is not the command's fault."""
        about_command = _is_about_the_command(words)
        # A container that refuses for another reason may have ended before its daemon knows.
        gone = await (self._fate() if about_command else self._shells.fate())
        if gone is not None:
            raise gone from None
        if not about_command:
            raise as_error(ApiError(status, words))
        return RefusedCommand(words, refusal_code(words))

    async def _runs_shells(self) -> bool:
        """Return whether there is a shell in the container."""
        running = await self.start(Command(("/bin/sh", "-c", ":")))
        try:
            return await running.wait() == 0
        finally:
            await running.aclose()

    async def _start_plain(
        self, command: Command, *, stdin: bool, terminal: TerminalSize | None = None
    ) -> PlainCommand:
        if self._shells.error is not None:
            raise self._shells.error
        async with self._starting():
            running = await PlainCommand.start(
                self._api,
                self._container,
                command,
                stdin=stdin,
                fate=self._shells.fate,
                terminal=terminal,
            )
        self._plain = {other for other in self._plain if not other.has_ended} | {running}
        return running

    @asynccontextmanager
    async def _file_work(self) -> AsyncIterator[TarFiles | ArchiveFiles]:
        """Have files go in and out with the image's own tools, or else through the daemon's."""
        try:
            if self._files is None:
                archives = ArchiveFiles(self._api, self._container)
                has_tools = await self._has_file_tools()
                self._files = TarFiles(self, archives) if has_tools else archives
            yield self._files
        except (ApiError, BackendUnavailable) as error:
            raise await self._fate() or as_error(error) from None

    @asynccontextmanager
    async def _starting(self) -> AsyncIterator[None]:
        """Start something in the container, unless it is about to be frozen."""
        await self._may_open.wait()
        self._opening += 1
        self._none_opening.clear()
        try:
            yield
        finally:
            self._opening -= 1
            if not self._opening:
                self._none_opening.set()

    async def _has_file_tools(self) -> bool:
        outcome = await execution.run(self, _FILE_TOOLS, timeout=_LOOK_SECONDS)
        return outcome.returncode == 0

    async def _prepare(self) -> None:
        await self._api.leisure()
        self._shells.prepare()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_about_the_command(words: str) -> bool:
    """Return whether the daemon refused for what was asked to run, such as an unknown user."""
    text = words.lower()
    return "stopped state" not in text and any(
        word in text for word in ("user", "passwd", "executable file", "oci runtime")
    )
