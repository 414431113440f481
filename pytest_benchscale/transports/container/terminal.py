"""A command in a container on a terminal that the daemon has made for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.base import TerminalSize
from pytest_benchscale.transports.container.api import ApiError
from pytest_benchscale.transports.container.plain import PlainCommand, as_error

__all__ = ["ContainerTerminal"]


class ContainerTerminal:
    """An exec session on a terminal. `kill` ends what is on it, with everything that it has started."""

    def __init__(self, running: PlainCommand, kill: Callable[[], Awaitable[None]]) -> None:
        self._running = running
        self._kill = kill

    async def receive(self) -> bytes:
        """Return what the terminal shows next; raises `anyio.EndOfStream` at the end."""
        try:
            return await self._running.stdout.receive()
        except anyio.EndOfStream:
            return await self._running.stderr.receive()  # why it could not be started

    async def send(self, data: bytes) -> None:
        """Type something; raises `anyio.BrokenResourceError` when the terminal is gone."""
        if self._running.stdin is None or self._running.has_ended:
            raise anyio.BrokenResourceError
        await self._running.stdin.send(data)

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is; its foreground processes get SIGWINCH."""
        try:
            await self._running.resize(size)
        except (ApiError, BackendUnavailable) as error:
            raise as_error(error) from None

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        return await self._running.wait()

    async def aclose(self) -> None:
        """Hang up, and kill what has not ended."""
        with anyio.CancelScope(shield=True):
            try:
                if not self._running.has_ended:
                    await self._kill()
            finally:
                await self._running.aclose()
