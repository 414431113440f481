"""The way to machines that only another machine reaches: one ssh connection to that one, which forwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from pytest_benchscale.transports.ssh.login import Login, LoginFailed

__all__ = ["Jump"]

T = TypeVar("T")

_FORBIDDEN = frozenset(
    {asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE}
)
_MEANINGS: tuple[tuple[str, type[OSError]], ...] = (
    ("refused", ConnectionRefusedError),
    ("timed out", TimeoutError),
)
"""What an sshd says of a connection that it could not make: the words of its system's error."""


class Jump:
    """Connections from another machine, over one login there; made when needed, and again when it broke.

    asyncssh takes it as a tunnel. `advice` tells what to do when the login fails.
    """

    def __init__(
        self,
        login: Login,
        dial: Callable[[Login], Coroutine[Any, Any, asyncssh.SSHClientConnection]],
        advice: Callable[[LoginFailed], str],
    ) -> None:
        """`dial` logs in, or raises `LoginFailed`."""
        self.login = login
        self._dial = dial
        self._advice = advice
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._opening: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def connected(self) -> asyncssh.SSHClientConnection:
        """Return the connection to that machine.

        Raises:
            LoginFailed: there is none, and none can be made.
        """
        async with self._connecting:
            self._require_open()
            if self._connection is None or self._connection.is_closed():
                try:
                    self._connection = await self._dial(self.login)
                except LoginFailed as failed:
                    raise LoginFailed(
                        f"the way leads through {self.login}, which cannot be taken: {failed.reason}",
                        resolution=self._advice(failed),
                        passing=failed.passing,
                    ) from failed
            connection = self._connection
        try:
            self._require_open()  # still
        except LoginFailed:
            connection.abort()
            raise
        return connection

    async def open(
        self, host: str, port: int
    ) -> tuple[asyncssh.SSHReader[bytes], Callable[[], None]]:
        """Connect to a port that is reached from there; return what it sends, and what ends it.

        Raises:
            LoginFailed: that machine lets us not in, or forwards nothing.
            OSError: it cannot connect.
        """
        connection = await self.connected()
        reader, writer = await self._opened(
            connection.open_connection(host, port), lambda pair: pair[1].channel.abort(), host, port
        )
        return reader, writer.channel.abort

    async def require_forwarding(self, host: str, port: int) -> None:
        """Return when that machine is there and would connect us, whether or not somebody listens.

        Raises:
            LoginFailed: it lets us not in, or forwards nothing.
        """
        try:
            _, hang_up = await self.open(host, port)
        except OSError:
            return
        hang_up()

    async def create_connection(
        self, session_factory: Any, remote_host: str, remote_port: int
    ) -> tuple[asyncssh.SSHTCPChannel[bytes], asyncssh.SSHTCPSession[bytes]]:
        """Do the same for asyncssh, which has a session of its own to put on it."""
        connection = await self.connected()
        return await self._opened(
            connection.create_connection(session_factory, remote_host, remote_port),
            lambda pair: pair[0].abort(),
            remote_host,
            remote_port,
        )

    def close(self) -> None:
        """Drop the connection, and so all that go through it. Safe to call twice."""
        self._closed = True
        if self._connection is not None:
            self._connection.abort()

    async def wait_closed(self) -> None:
        """Return when it is dropped, which it is at once."""

    def _require_open(self) -> None:
        if self._closed:
            raise LoginFailed(f"the connection to {self.login} was let go of", resolution="")

    async def _opened(
        self,
        channel: Coroutine[Any, Any, T],
        drop: Callable[[T], None],
        host: str,
        port: int,
    ) -> T:
        """Wait for a channel. Who gives up leaves it to be dropped: asyncssh would keep it open."""
        opening = asyncio.ensure_future(channel)
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda late: _drop(late, drop))
            raise
        except asyncssh.ChannelOpenError as error:
            if error.code in _FORBIDDEN:
                raise self._forbidden(host, port, error) from error
            raise _as_os_error(error) from error

    def _forbidden(self, host: str, port: int, error: asyncssh.ChannelOpenError) -> LoginFailed:
        return LoginFailed(
            f"{self.login} forwards no connection to {host}:{port}: {error.reason}",
            resolution=f"allow it in the sshd_config of {self.login.host}: `AllowTcpForwarding yes`, and no "
            "`DisableForwarding` or `PermitOpen` that forbids it; nor `restrict` or `no-port-forwarding` "
            "at the key in authorized_keys",
        )


def _drop(late: asyncio.Task[T], drop: Callable[[T], None]) -> None:
    if not late.cancelled() and late.exception() is None:
        drop(late.result())


def _as_os_error(error: asyncssh.ChannelOpenError) -> OSError:
    for words, kind in _MEANINGS:
        if words in error.reason:
            return kind(error.reason)
    return OSError(error.reason)
