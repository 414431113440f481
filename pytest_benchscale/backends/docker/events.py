"""The daemon's news of a lab's containers, as they happen: one stream for the whole lab."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import docker.errors
import requests.exceptions
import urllib3.exceptions

from pytest_benchscale.backends.docker.engine import Engine

__all__ = ["Watch"]

_BROKEN = (
    OSError,
    ValueError,  # half a message
    urllib3.exceptions.HTTPError,
    requests.exceptions.RequestException,
    docker.errors.DockerException,
)


class Watch:
    """A stream of events, read by a thread of its own, handed over on the event loop.

    `on_event` gets each event; `on_end` is called once when the stream breaks, not when it is closed.
    """

    def __init__(
        self,
        stream: Any,
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._on_event = on_event
        self._on_end = on_end
        self._closed = False
        threading.Thread(target=self._read, name="benchscale-events", daemon=True).start()

    @classmethod
    async def open(
        cls,
        engine: Engine,
        labels: Mapping[str, str],
        since: int,
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[], None],
    ) -> Watch:
        """Start to listen for the containers with these labels, from a time (s since 1970) on.

        Raises:
            ApiError, BackendUnavailable: it is not possible.
        """
        filters = {
            "type": ["container"],
            "label": [f"{key}={value}" for key, value in labels.items()],
        }
        stream = await engine.call(engine.client.events, since=since, filters=filters, decode=True)
        return cls(stream, on_event, on_end)

    def close(self) -> None:
        """Stop listening."""
        if not self._closed:
            self._closed = True
            try:
                self._stream.close()
            except _BROKEN + (AttributeError,):  # noqa: RUF005
                pass  # it has ended by itself, and the SDK does not look

    def _read(self) -> None:
        try:
            for event in self._stream:
                self._hand_over(self._take, event)
        except (*_BROKEN, AttributeError):
            pass  # whichever way it broke
        self._hand_over(self._ended)

    def _hand_over(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._closed:
            try:
                self._loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # the loop is closed
                self._closed = True

    def _take(self, event: Mapping[str, Any]) -> None:
        if not self._closed:
            self._on_event(event)

    def _ended(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_end()
