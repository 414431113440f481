"""The transport to one machine with an sshd."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.transports.base import Command, RunningCommand, TerminalSize
from pytest_benchscale.transports.shell.refused import RefusedCommand
from pytest_benchscale.transports.shell.session import NoShell, Refused
from pytest_benchscale.transports.shell.shells import Shells
from pytest_benchscale.transports.shell.streams import Stream
from pytest_benchscale.transports.shell.tar_files import TarFiles
from pytest_benchscale.transports.shell.terminals import prepared, with_environment
from pytest_benchscale.transports.ssh.connections import Connections, Greeting
from pytest_benchscale.transports.ssh.login import Login, LoginFailed
from pytest_benchscale.transports.ssh.terminal import SshTerminal
from pytest_benchscale.transports.ssh.users import switched

__all__ = ["SshTransport"]


class SshTransport:
    """The way into a running machine. Commands run in shells that wait at the end of its connection.

    `env` is the node's own environment. `fate` tells why connections break: an error, or None when
    the machine runs, as far as is known.
    """

    def __init__(
        self,
        node: str,
        login: Login,
        *,
        env: Mapping[str, str],
        fate: Callable[[], Awaitable[BenchscaleError | None]],
        greet: Greeting | None = None,
    ) -> None:
        """`greet` is done first on a new connection; see `Connections`."""
        self.node = node
        self._env = env
        self._connections = Connections(node, login, greet)
        self._shells = Shells(node, self, self._open_stream, fate)
        self._files = TarFiles(self)

    async def start(self, command: Command, *, stdin: bool = False) -> RunningCommand:
        """Start a command; raises `NodeDied` when the node is gone."""
        try:
            return await self._shells.start(
                replace(command, env={**self._env, **command.env}), stdin=stdin
            )
        except LoginFailed as failed:
            raise await self._shells.fate() or failed.as_error(self.node) from failed
        except Refused as refused:
            return RefusedCommand(str(refused))
        except NoShell as error:
            raise LabError(
                f"node {self.node!r} starts no shell: {error}",
                node=self.node,
                step="ssh",
                resolution="log in by hand and look what comes instead of /bin/sh",
            ) from error

    async def open_terminal(self, command: Command, size: TerminalSize, term: str) -> SshTerminal:
        """Start a command on a terminal of its own; raises `NodeDied` when the node is gone."""
        if self._shells.error is not None:
            raise self._shells.error
        marker = os.urandom(8).hex()
        own = replace(command, env={**self._env, **command.env})
        ready = switched(with_environment(prepared(own, size, term, marker)))
        try:
            channel = await self._connections.open_terminal(ready, size, term)
        except LoginFailed as failed:
            raise await self._shells.fate() or failed.as_error(self.node) from failed
        kill = partial(self._shells.kill_marked, marker, command.user)
        return SshTerminal(self.node, channel, kill, self._shells.fate)

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree into the node."""
        await self._files.put(local, remote)

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree out of the node."""
        await self._files.get(remote, local)

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file."""
        return await self._files.read_bytes(remote)

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file."""
        await self._files.write_bytes(remote, data, mode)

    async def open_stream(self, command: Command) -> Stream:
        """Start a command on a channel of its own, the end of which it notices as that of its input.

        Raises:
            LabError: there is no connection, or the machine carries no more commands.
            NodeDied: the node is gone.
        """
        try:
            return await self._open_stream(command)
        except LoginFailed as failed:
            raise await self._shells.fate() or failed.as_error(self.node) from failed

    async def aclose(self) -> None:
        """Let go of the node."""
        self.lost(NodeDied(self.node, "it was let go of"))

    def lost(self, error: BenchscaleError) -> None:
        """Take note that the node is gone: everything in flight ends with this error."""
        self._shells.lost(error)
        self._connections.abort()

    async def _open_stream(self, command: Command) -> Stream:
        return await self._connections.open_stream(switched(command))
