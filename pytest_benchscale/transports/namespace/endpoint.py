"""The event loop's end of a channel: requests and their answers, and what comes unasked."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

import anyio

from pytest_benchscale.transports.namespace import channel
from pytest_benchscale.transports.namespace.channel import Message

__all__ = ["Endpoint"]

Answer = tuple[Message, list[int]]


class Endpoint:
    """One end of a channel, on the running event loop.

    `on_event` is called with each message that is not an answer; it owns the descriptors.
    `on_close` is called once, when the other end is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_event: Callable[[Message, list[int]], None],
        on_close: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._last_request = 0
        self._turn = asyncio.Lock()
        self.closed = False
        sock.setblocking(False)  # noqa: FBT003 - the library's signature
        self._loop.add_reader(sock.fileno(), self._readable)

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message that has no answer.

        Raises:
            ConnectionError: the other end is gone.
        """
        async with self._turn:
            while not self.closed:
                try:
                    channel.send(self._socket, message, descriptors)
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                else:
                    return
        raise ConnectionResetError("the other end of the channel is gone")

    async def request(
        self, operation: str, descriptors: Sequence[int] = (), /, **fields: object
    ) -> Answer:
        """Send a request and return its answer; the caller owns the answer's descriptors.

        Raises:
            ConnectionError: the other end is gone.
        """
        self._last_request += 1
        number = self._last_request
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._pending[number] = future
        try:
            await self.send({"op": operation, "request": number, **fields}, descriptors)
            return await future
        finally:
            del self._pending[number]

    def close(self) -> None:
        """Close this end; the other end sees it."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the channel was closed"))
        self._on_close()

    def _readable(self) -> None:
        while not self.closed:
            try:
                received = channel.receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionError:
                received = None
            if received is None:
                self.close()
                return
            self._dispatch(*received)

    def _dispatch(self, message: Message, descriptors: list[int]) -> None:
        if "reply" not in message:
            self._on_event(message, descriptors)
            return
        future = self._pending.get(message["reply"])
        if future is None or future.done():  # whoever asked was cancelled
            for descriptor in descriptors:
                os.close(descriptor)
            return
        future.set_result((message, descriptors))
