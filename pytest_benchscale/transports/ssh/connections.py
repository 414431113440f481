"""The ssh connections to one machine: one as a rule, more where a connection may carry few commands."""

from __future__ import annotations

import asyncio
import shlex
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import asyncssh

from pytest_benchscale.transports.base import Command, TerminalSize
from pytest_benchscale.transports.shell.streams import Stream
from pytest_benchscale.transports.ssh.channel import ChannelStream
from pytest_benchscale.transports.ssh.login import DEFAULT_PORT, Login, LoginFailed, explain
from pytest_benchscale.transports.ssh.terminal import TerminalChannel

__all__ = ["Connections", "Greeting", "connect"]

T = TypeVar("T")

Greeting = Callable[[Callable[[Command], Awaitable[Stream]]], Awaitable[None]]
"""What is done on the first connection, before all else; it is given a way to start commands there."""

_MOST = 16  # connections to one machine
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # first: the cheapest here
_PAUSE = 0.2  # seconds between attempts to reach a machine that is starting again
_KEEPALIVES = 3  # unanswered ones, and the machine counts as gone


class Connections:
    """Opens channels; connects when needed, and again after a connection broke.

    An sshd lets a connection carry `MaxSessions` commands at once, ten by default. When one more is
    refused there, it gets a connection of its own.
    """

    def __init__(
        self,
        node: str,
        login: Login,
        greet: Greeting | None = None,
    ) -> None:
        """`greet` is done on every connection that is the only one."""
        self._node = node
        self.login = login
        self._greet = greet
        self._open: list[asyncssh.SSHClientConnection] = []
        self._used: weakref.WeakSet[asyncssh.SSHClientConnection] = weakref.WeakSet()
        self._connecting = asyncio.Lock()
        self._was_there = False
        self._closed = False

    async def open_stream(self, command: Command) -> ChannelStream:
        """Start a command as the login's user, and return its streams.

        Raises:
            LoginFailed: there is no connection, or the machine carries no more commands.
        """
        return await self._open_channel(partial(self._start, command=command))

    async def open_terminal(
        self, command: Command, size: TerminalSize, term: str
    ) -> TerminalChannel:
        """Start a command as the login's user on a terminal.

        Raises:
            LoginFailed: as `open_stream`.
        """

        async def start(connection: asyncssh.SSHClientConnection) -> TerminalChannel:
            channel = TerminalChannel(self._node)
            await connection.create_session(
                lambda: channel,
                shlex.join(command.argv),
                encoding=None,
                term_type=term,
                term_size=(size.columns, size.rows),
            )
            self._used.add(connection)
            return channel

        return await self._open_channel(start)

    async def _open_channel(
        self, start: Callable[[asyncssh.SSHClientConnection], Awaitable[T]]
    ) -> T:
        tried: set[asyncssh.SSHClientConnection] = set()
        while True:
            connection, is_own = await self._connection(tried)
            try:
                return await start(connection)
            except asyncssh.ChannelOpenError as error:
                # One more was refused, unless it was the first.
                is_first = is_own and connection not in self._used
                has_enough = error.code == asyncssh.OPEN_CONNECT_FAILED and not is_first
                if not has_enough and not connection.is_closed():
                    raise explain(self.login, error) from error
                tried.add(connection)
            except (OSError, asyncssh.Error) as error:
                tried.add(connection)
                if len(tried) > 1:  # it broke, and the next one, too
                    raise explain(self.login, error) from error
                connection.abort()

    async def _start(
        self, connection: asyncssh.SSHClientConnection, command: Command
    ) -> ChannelStream:
        stream = ChannelStream(self._node)
        words = shlex.join(command.argv)
        await connection.create_session(lambda: stream, words, encoding=None)
        self._used.add(connection)
        return stream

    async def _connection(
        self, but: set[asyncssh.SSHClientConnection]
    ) -> tuple[asyncssh.SSHClientConnection, bool]:
        """Return a connection that is none of those, and whether it was made for this."""
        async with self._connecting:
            self._open = [each for each in self._open if not each.is_closed()]
            for connection in self._open:
                if connection not in but:
                    return connection, False
            if self._closed:
                raise LoginFailed("the node was let go of", resolution="")
            if len(self._open) >= _MOST:
                raise LoginFailed(
                    f"{self.login} takes no more commands on {_MOST} connections",
                    resolution="raise MaxSessions in its sshd_config",
                )
            connection = await self._connect()
            self._open.append(connection)
            if self._greet is not None and len(self._open) == 1:
                await self._greeted(self._greet, connection)
            return connection, True

    async def _connect(self) -> asyncssh.SSHClientConnection:
        """Connect; a machine that was there before is waited for, since it may be starting again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.login.restart_seconds if self._was_there else 0)
        while True:
            try:
                connection = await connect(self.login)
            except LoginFailed as failed:
                if not failed.passing or loop.time() >= deadline or self._closed:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                self._was_there = True
                return connection

    async def _greeted(self, greet: Greeting, connection: asyncssh.SSHClientConnection) -> None:
        try:
            await greet(partial(self._start, connection))
        except (OSError, asyncssh.Error) as error:
            connection.abort()
            raise explain(self.login, error) from error
        except BaseException:
            connection.abort()
            raise

    def abort(self) -> None:
        """Drop all connections."""
        self._closed = True
        for connection in self._open:
            connection.abort()
        self._open.clear()


async def connect(login: Login) -> asyncssh.SSHClientConnection:
    """Connect and log in, through another machine where the login says so.

    Raises:
        LoginFailed: that failed; says why.
    """
    options: dict[str, object] = {}
    if login.through is not None:
        await login.through.connected()  # in its own time: what follows has that of this machine
        options["tunnel"] = login.through
    if login.user is not None:
        options["username"] = login.user
    if login.password is not None:
        options["password"] = login.password
        # Keys that nobody named would use up the attempts that an sshd allows.
        options["client_keys"] = options["agent_path"] = None
    if login.key is not None:
        options["client_keys"] = [str(login.key.expanduser())]
    try:
        return await asyncssh.connect(
            login.host,
            () if login.reads_config and login.port == DEFAULT_PORT else login.port,
            known_hosts=login.host_keys.option(),
            config=() if login.reads_config else None,
            encryption_algs=_CIPHERS,
            connect_timeout=login.connect_seconds,
            login_timeout=login.connect_seconds,
            keepalive_interval=login.keepalive_seconds,
            keepalive_count_max=_KEEPALIVES,
            **options,
        )
    except (OSError, asyncssh.Error, asyncssh.KeyImportError, ValueError) as error:
        raise explain(login, error) from error
