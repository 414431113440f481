"""Finding out what answers at an address, without waiting for the kernel's patience with a silent one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Protocol

import asyncssh

from pytest_benchscale.transports.ssh.jump import Jump
from pytest_benchscale.transports.ssh.login import LoginFailed

__all__ = ["POLL", "Door", "Knocker"]

POLL = 0.2
"""Seconds between two looks at a guest that is not ready yet."""

_CONNECT_SECONDS = 3.0  # an attempt without an answer until then gets none
_BANNER_SECONDS = 15.0
_BETWEEN_CONNECTIONS = 2.0
_BANNER = b"SSH-"


class Door(Enum):
    """What answers at an address."""

    NONE = "nothing"
    CLOSED = "a machine without an sshd"
    OPEN = "an sshd"


class _Reader(Protocol):
    async def read(self, n: int) -> bytes: ...


class Knocker:
    """Knocks at one address and port, with `through` from another machine. `met` tells the last outcome."""

    def __init__(self, host: str, port: int, through: Jump | None = None) -> None:
        self.host = host
        self.port = port
        self._through = through
        self.met = "nothing has answered yet"
        self._wanted: frozenset[Door] = frozenset()
        self._found: asyncio.Future[Door] | None = None
        self._patient_until = 0.0

    async def until(self, *wanted: Door) -> Door:
        """Knock until one of these answers, and return it.

        A machine that is not there yet leaves an attempt without an answer, and the kernel repeats it
        more and more seldom. So there is a new one every `POLL` seconds while the older ones go on. Once
        one has a connection, the next waits longer, since an sshd takes few that have not logged in;
        but there is a next one, since what accepted it may be a forwarder before the machine.

        Raises:
            LoginFailed: the machine that it is to be reached from does not let us, and will not.
        """
        self._wanted = frozenset(wanted)
        self._found = asyncio.get_running_loop().create_future()
        attempts: set[asyncio.Task[None]] = set()
        try:
            while not self._found.done():
                if time.monotonic() >= self._patient_until:
                    attempt = asyncio.create_task(self._knock())
                    attempts.add(attempt)
                    attempt.add_done_callback(attempts.discard)
                await asyncio.wait([self._found], timeout=POLL)
            return self._found.result()
        finally:
            remaining = list(attempts)
            for attempt in remaining:
                attempt.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)

    async def _knock(self) -> None:
        try:
            door, met = await self._answer()
        except LoginFailed as failed:
            self.met = failed.reason
            if not failed.passing and self._found is not None and not self._found.done():
                self._found.set_exception(failed)
            return
        self.met = met
        if door in self._wanted and self._found is not None and not self._found.done():
            self._found.set_result(door)

    async def _answer(self) -> tuple[Door, str]:
        if self._through is not None:
            await self._through.connected()  # which may take longer than an answer
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, hang_up = await self._connect()
        except ConnectionRefusedError:
            return Door.CLOSED, "the machine is there, and no sshd listens yet"
        except TimeoutError:
            return Door.NONE, "nothing answered"
        except OSError as error:
            return Door.NONE, error.strerror or str(error)
        self._patient_until = time.monotonic() + _BETWEEN_CONNECTIONS
        try:
            return await self._greeting(reader)
        finally:
            self._patient_until = 0.0
            hang_up()

    async def _connect(self) -> tuple[_Reader, Callable[[], None]]:
        if self._through is not None:
            return await self._through.open(self.host, self.port)
        reader, writer = await asyncio.open_connection(self.host, self.port)
        return reader, partial(_abort, writer)

    async def _greeting(self, reader: _Reader) -> tuple[Door, str]:
        try:
            async with asyncio.timeout(_BANNER_SECONDS):
                banner = await reader.read(len(_BANNER))
        except TimeoutError:
            return Door.CLOSED, f"something listens and said nothing for {_BANNER_SECONDS:g} s"
        except (OSError, asyncssh.Error) as error:
            return Door.CLOSED, f"the connection was cut: {error}"
        if not banner:
            return Door.CLOSED, "the connection was closed at once"
        if not _BANNER.startswith(banner):
            return Door.CLOSED, f"what listens is no sshd: it says {banner!r}"
        return Door.OPEN, "an sshd listens"


def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # a writer that nobody holds any more closes it, so it is held until here
