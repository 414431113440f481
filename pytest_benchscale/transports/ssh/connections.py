"""The ssh connections to one machine: one as a rule, more where a connection may carry few commands."""

from __future__ import annotations

import asyncio
import shlex

import asyncssh

from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.ssh.channel import ChannelStream
from pytest_benchscale.transports.ssh.login import Login, LoginFailed, explain

__all__ = ["Connections"]

_MOST = 16  # connections to one machine
_KEEPALIVES = 3  # unanswered ones, and the machine counts as gone


class Connections:
    """Opens channels; connects when needed, and again after a connection broke.

    An sshd lets a connection carry `MaxSessions` commands at once, ten by default. When one more is
    refused there, it gets a connection of its own.
    """

    def __init__(self, node: str, login: Login) -> None:
        self._node = node
        self.login = login
        self._open: list[asyncssh.SSHClientConnection] = []
        self._connecting = asyncio.Lock()
        self._closed = False

    async def open_stream(self, command: Command) -> ChannelStream:
        """Start a command as the login's user, and return its streams.

        Raises:
            LoginFailed: there is no connection, or the machine carries no more commands.
        """
        words = shlex.join(command.argv)
        tried: set[asyncssh.SSHClientConnection] = set()
        while True:
            connection = await self._connection(tried)
            try:
                return await self._start(connection, words)
            except asyncssh.ChannelOpenError as error:
                if error.code != asyncssh.OPEN_CONNECT_FAILED and not connection.is_closed():
                    raise explain(self.login, error) from error
                tried.add(connection)
            except (OSError, asyncssh.Error) as error:
                tried.add(connection)
                if len(tried) > 1:  # it broke, and the next one, too
                    raise explain(self.login, error) from error
                connection.abort()

    async def _start(self, connection: asyncssh.SSHClientConnection, words: str) -> ChannelStream:
        stream = ChannelStream(self._node)
        await connection.create_session(lambda: stream, words, encoding=None)
        return stream

    async def _connection(
        self, but: set[asyncssh.SSHClientConnection]
    ) -> asyncssh.SSHClientConnection:
        """Return a connection that is none of those."""
        async with self._connecting:
            self._open = [each for each in self._open if not each.is_closed()]
            for connection in self._open:
                if connection not in but:
                    return connection
            if self._closed:
                raise LoginFailed("the node was let go of", resolution="")
            if len(self._open) >= _MOST:
                raise LoginFailed(
                    f"{self.login} takes no more commands on {_MOST} connections",
                    resolution="raise MaxSessions in its sshd_config",
                )
            connection = await connect(self.login)
            self._open.append(connection)
            return connection

    def abort(self) -> None:
        """Drop all connections."""
        self._closed = True
        for connection in self._open:
            connection.abort()
        self._open.clear()


async def connect(login: Login) -> asyncssh.SSHClientConnection:
    """Connect and log in.

    Raises:
        LoginFailed: that failed; says why.
    """
    options: dict[str, object] = {}
    if login.user is not None:
        options["username"] = login.user
    if login.password is not None:
        options["password"] = login.password
    if login.key is not None:
        options["client_keys"] = [str(login.key.expanduser())]
    try:
        return await asyncssh.connect(
            login.host,
            login.port,
            known_hosts=login.host_keys.option(),
            config=None,
            connect_timeout=login.connect_seconds,
            login_timeout=login.connect_seconds,
            keepalive_interval=login.keepalive_seconds,
            keepalive_count_max=_KEEPALIVES,
            **options,
        )
    except (OSError, asyncssh.Error, asyncssh.KeyImportError, ValueError) as error:
        raise explain(login, error) from error
