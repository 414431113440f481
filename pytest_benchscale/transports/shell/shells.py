"""The shells that wait in one node, and what is done through them: start commands, signal and kill them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

import anyio

from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.transports.base import Command, Launcher
from pytest_benchscale.transports.shell.agent import BOOT
from pytest_benchscale.transports.shell.killing import DENIED, KILL
from pytest_benchscale.transports.shell.pool import Pool
from pytest_benchscale.transports.shell.session import Session, SessionCommand
from pytest_benchscale.transports.shell.streams import Stream

__all__ = ["Shells"]

_ROOT = "0"
_NOBODY = 0  # no process has this number
_SIGNAL_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # between questions about a node whose connections broke


class Shells:
    """The waiting shells of a node, by the user they run as.

    `open_stream` starts a command and returns its streams; the start of every shell is within
    `gate`. `fate` tells why connections break: an error, or None when the node runs. `launcher`
    is who uses the shells: what signals and kills commands is started by it.
    """

    def __init__(
        self,
        node: str,
        launcher: Launcher,
        open_stream: Callable[[Command], Awaitable[Stream]],
        fate: Callable[[], Awaitable[BenchscaleError | None]],
        gate: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self.node = node
        self.error: BenchscaleError | None = None
        """Why nothing can be started any more."""
        self._launcher = launcher
        self._open_stream = open_stream
        self._fate = fate
        self._gate = gate
        self._pools: dict[str | None, Pool] = {}

    async def start(self, command: Command, *, stdin: bool = False) -> SessionCommand:
        """Start a command.

        Raises:
            NoShell: the node has no shell that could wait.
            Refused: none was started, as for a user that is unknown there.
            BenchscaleError: the node is gone; and what `open_stream` raises.
        """
        if self.error is not None:
            raise self.error
        session = await self._pool(command.user).take()
        return session.run(command, stdin=stdin)

    def prepare(self) -> None:
        """Have the first shell started, in the background."""
        self._pool(None).grow()

    def lost(self, error: BenchscaleError) -> None:
        """Take note that the node is gone: everything in flight ends with this error."""
        if self.error is None:
            self.error = error
        for pool in self._pools.values():
            pool.close(error)

    async def fate(self) -> BenchscaleError | None:
        """Return why connections break: the node, or what it runs on, is gone; None: neither is.

        Connections break before the end of a node is known, so it is asked again.
        """
        pause = _FIRST_PAUSE
        while pause < _LONGEST_PAUSE:
            if (error := self.error or await self._fate()) is not None:
                return error
            await asyncio.sleep(pause)
            pause *= 2
        return self.error or await self._fate()

    # --- for sessions and their commands ---

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
        if self.error is not None:  # it may be over that, whatever it was
            raise await self._fate() or self.error
        with command.holding() as shell:
            ends = (command.pid, command.parent, shell)
            await self._kill(command.session.user, *ends, command.marker)

    async def kill_marked(self, marker: str, user: str | None) -> None:
        """Kill what has a mark in its environment, and everything it started."""
        if self.error is None:
            await self._kill(user, _NOBODY, _NOBODY, _NOBODY, marker)

    async def _kill(self, user: str | None, *arguments: object) -> None:
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
        """Run a script that prints nothing; None: it takes long, and goes on by itself.

        It is not killed then, since what kills it is another such script.
        """
        with anyio.move_on_after(_SIGNAL_SECONDS):
            running = await self._launcher.start(Command(argv, user=user))
            try:
                return await running.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await running.aclose()
        return None

    def _pool(self, user: str | None) -> Pool:
        if user not in self._pools:
            self._pools[user] = Pool(lambda: self._open(user))
        return self._pools[user]

    async def _open(self, user: str | None) -> Session:
        async with self._gate():
            stream = await self._open_stream(Command(("/bin/sh", "-c", BOOT), user=user))
            return await Session.open(self, user, stream)
