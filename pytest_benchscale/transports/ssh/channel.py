"""The streams of one command at the other end of an ssh connection."""

from __future__ import annotations

import asyncio

import anyio
import asyncssh

from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.transports.shell.streams import STDERR, STDOUT, Receiver

__all__ = ["ChannelStream"]


class ChannelStream(asyncssh.SSHClientSession[bytes]):
    """One session channel (RFC 4254, section 6)."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._receiver: Receiver | None = None
        self._early: list[tuple[int, bytes]] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_closed = False
        self.failure: BenchscaleError | None = None

    # --- for its user ---

    def deliver_to(self, receiver: Receiver) -> None:
        """Name who takes the output; what has come already is handed over at once."""
        self._receiver = receiver
        early, self._early = self._early, []
        for stream, data in early:
            receiver.received(stream, data)
        if self.is_closed:
            receiver.closed()

    def write(self, data: bytes) -> None:
        """Send input without waiting; for little."""
        if not self.is_closed and self._channel is not None:
            self._channel.write(data)

    async def send(self, data: bytes) -> None:
        """Send input; waits while the node takes no more.

        Raises:
            anyio.BrokenResourceError: the channel is closed.
        """
        await self._writable.wait()
        if self.is_closed or self._channel is None:
            raise anyio.BrokenResourceError
        try:
            self._channel.write(data)
        except OSError:  # asyncssh: it is closing
            raise anyio.BrokenResourceError from None

    def end_input(self) -> None:
        """Close the input: the command reads to the end of the file."""
        if not self.is_closed and self._channel is not None:
            self._channel.write_eof()

    def pause(self) -> None:
        """Stop reading: the node, and then the command, has to wait."""
        if not self.is_closed and self._channel is not None:
            self._channel.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if not self.is_closed and self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        """Drop the channel; the connection stays."""
        if not self.is_closed and self._channel is not None:
            self._channel.abort()

    # --- for asyncssh ---

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Take over the channel."""
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Take a piece of output."""
        stream = STDERR if datatype == asyncssh.EXTENDED_DATA_STDERR else STDOUT
        if self._receiver is None:
            self._early.append((stream, data))
        else:
            self._receiver.received(stream, data)

    def eof_received(self) -> bool:
        """Close the channel when the node has said everything."""
        return False

    def pause_writing(self) -> None:
        """Have `send` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end of the channel, by itself or with its connection."""
        if self.is_closed:
            return
        self.is_closed = True
        if exc is not None:
            self.failure = LabError(
                f"the ssh connection to node {self._node!r} was lost: {exc}",
                node=self._node,
                step="ssh",
                resolution="check the machine and the network between; what ran there may run still",
            )
        self._writable.set()
        if self._receiver is not None:
            self._receiver.closed()
