"""The transport into one container."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, LabError, NodeDied
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command, RunningCommand
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.container.files import ArchiveFiles, TarFiles
from pytest_benchscale.transports.container.killing import DENIED, KILL
from pytest_benchscale.transports.container.plain import PlainCommand, RefusedCommand, as_error
from pytest_benchscale.transports.container.pool import Pool
from pytest_benchscale.transports.container.session import NoShell, Session, SessionCommand

__all__ = ["ContainerTransport"]

_ROOT = "0"
_SIGNAL_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = (
    0.01,
    0.5,
)  # between questions about a container whose connections broke
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
        self._pools: dict[str | None, Pool] = {}
        self._plain: set[PlainCommand] = set()
        self._has_shell = True
        self._error: BenchscaleError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._none_opening = asyncio.Event()
        self._none_opening.set()
        self._may_open = asyncio.Event()
        self._may_open.set()
        self._files: TarFiles | ArchiveFiles | None = None

    async def start(self, command: Command, *, stdin: bool = False) -> RunningCommand:
        """Start a command; raises `NodeDied` when the node is gone."""
        if self._error is not None:
            raise self._error
        try:
            if self._has_shell:
                try:
                    session = await self._pool(command.user).take()
                    return session.run(command, stdin=stdin)
                except NoShell:
                    self._has_shell = False
            return await self._start_plain(command, stdin=stdin)
        except ApiError as error:
            about_command = _is_about_the_command(error)
            # A container that refuses for another reason may have ended before its daemon knows.
            if (gone := await (self._fate() if about_command else self.fate())) is not None:
                raise gone from None
            if about_command:
                return RefusedCommand(error.explanation)
            raise as_error(error) from error
        except BackendUnavailable as error:
            raise await self._fate() or error from None

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
        if self._error is None:
            self._error = error
        for task in self._tasks:
            task.cancel()
        for pool in self._pools.values():
            pool.close(error)
        for command in self._plain:
            command.lost(error)

    # --- for sessions and their commands ---

    async def fate(self) -> BenchscaleError | None:
        """Return why connections break: the container or its daemon is gone; None: neither is.

        A container's connections break before its daemon knows of its end, so it is asked again.
        """
        pause = _FIRST_PAUSE
        while pause < _LONGEST_PAUSE:
            if (error := self._error or await self._fate()) is not None:
                return error
            await asyncio.sleep(pause)
            pause *= 2
        return self._error or await self._fate()

    def released(self, session: Session, *, clean: bool) -> None:
        """Take a session back."""
        self._pool(session.user).give_back(session, clean=clean)

    async def signal(self, command: SessionCommand, signum: int) -> None:
        """Send a signal to a command's process."""
        name = signal.Signals(signum).name.removeprefix("SIG")
        script = ("/bin/sh", "-c", f"kill -s {name} {command.pid} 2>/dev/null || :")
        await self._run_beside(script, command.session.user)

    async def kill(self, command: SessionCommand) -> None:
        """Kill a command and everything it started; processes of other users by root."""
        if self._error is not None:  # it may be over that, whatever it was
            raise await self._fate() or self._error
        user = command.session.user
        with command.holding() as shell:
            arguments = (command.pid, command.parent, shell, command.marker)
            script = ("/bin/sh", "-c", KILL, "sh", *map(str, arguments))
            code = await self._run_beside(script, user)
            if code == DENIED:
                code = await self._run_beside(script, _ROOT)
        if code != 0:
            raise LabError(
                "processes of a killed command are still there",
                node=self.node,
                step="kill",
                details=f"the look for them ended with exit code {code}",
            )

    async def _run_beside(self, argv: tuple[str, ...], user: str | None) -> int | None:
        outcome = await execution.run(self, Command(argv, user=user), timeout=_SIGNAL_SECONDS)
        return outcome.returncode

    def _pool(self, user: str | None) -> Pool:
        if user not in self._pools:
            self._pools[user] = Pool(lambda: self._open_session(user))
        return self._pools[user]

    async def _open_session(self, user: str | None) -> Session:
        async with self._starting():
            return await Session.open(self, self._api, self._container, user)

    async def _start_plain(self, command: Command, *, stdin: bool) -> RunningCommand:
        async with self._starting():
            running = await PlainCommand.start(
                self._api, self._container, command, stdin=stdin, fate=self.fate
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
        outcome = await execution.run(self, _FILE_TOOLS, timeout=_SIGNAL_SECONDS)
        return outcome.returncode == 0

    async def _prepare(self) -> None:
        await self._api.leisure()
        self._pool(None).grow()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_about_the_command(error: ApiError) -> bool:
    """Return whether the daemon refused for what was asked to run, such as an unknown user."""
    text = error.explanation.lower()
    return "stopped state" not in text and any(
        word in text for word in ("user", "passwd", "executable file", "oci runtime")
    )
