"""A command at the other end of an ssh connection on a terminal that the sshd has made for it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.transports.base import TerminalSize
from pytest_benchscale.transports.shell.streams import Inbox
from pytest_benchscale.transports.ssh.channel import ChannelStream

__all__ = ["SshTerminal", "TerminalChannel"]

_END_SECONDS = 10.0  # for the channel to close once everything on it was killed


class TerminalChannel(ChannelStream):
    """One session channel with a terminal (RFC 4254, section 6.2)."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.returncode: int | None = None

    def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is."""
        if not self.is_closed and self._channel is not None:
            self._channel.change_terminal_size(size.columns, size.rows)

    def exit_status_received(self, status: int) -> None:
        """Take the exit code."""
        self.returncode = status

    def exit_signal_received(self, name: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Take the signal that has ended the command."""
        with suppress(KeyError):
            self.returncode = -signal.Signals[f"SIG{name}"]


class SshTerminal:
    """A command on a terminal. `kill` ends what is on it; `fate` tells why connections break."""

    def __init__(
        self,
        node: str,
        channel: TerminalChannel,
        kill: Callable[[], Awaitable[None]],
        fate: Callable[[], Awaitable[BenchscaleError | None]],
    ) -> None:
        self._node = node
        self._channel = channel
        self._kill = kill
        self._fate = fate
        self._inbox = Inbox()
        self._inbox.on_drained = channel.resume
        self._closed = asyncio.Event()
        channel.deliver_to(self)

    async def receive(self) -> bytes:
        """Return what the terminal shows next; raises `anyio.EndOfStream` at the end."""
        return await self._inbox.receive()

    async def send(self, data: bytes) -> None:
        """Type something; raises `anyio.BrokenResourceError` when the terminal is gone."""
        await self._channel.send(data)

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is; its foreground processes get SIGWINCH."""
        self._channel.resize(size)

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        await self._closed.wait()
        if self._channel.returncode is not None:
            return self._channel.returncode
        raise (
            await self._fate()
            or self._channel.failure
            or LabError(
                f"the terminal on node {self._node!r} ended without an exit code",
                node=self._node,
                step="terminal",
            )
        )

    async def aclose(self) -> None:
        """Hang up, and kill what has not ended."""
        with anyio.CancelScope(shield=True):
            try:
                if self._channel.returncode is None and not self._closed.is_set():
                    await self._kill()
                    with anyio.move_on_after(_END_SECONDS):
                        await self._closed.wait()
            finally:
                self._inbox.abandon()
                self._channel.close()

    # --- what comes from the channel ---

    def received(self, stream: int, data: bytes) -> None:
        """Take output."""
        self._inbox.put(data)
        if self._inbox.is_full:
            self._channel.pause()

    def closed(self) -> None:
        """Take note of the end."""
        self._inbox.end()
        self._closed.set()
