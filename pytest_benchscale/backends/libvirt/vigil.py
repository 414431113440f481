"""Knowing how a lab's domains are: told by the daemon's events, asked for when these were missed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import libvirt
from anyio import to_thread

from pytest_benchscale.backends.libvirt.connection import Connection, open_raw
from pytest_benchscale.backends.libvirt.events import DomainEvent, Listener
from pytest_benchscale.backends.libvirt.failures import GONE
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.errors import BackendUnavailable

__all__ = ["Vigil"]

_BACK_SECONDS = 5.0
"""How long a daemon that was away may take to answer before the next call on its lab fails."""


class Vigil:
    """Keeps the state of nodes true while the daemon is there, and tells when it is not."""

    def __init__(
        self, backend: str, connection: Connection, nodes: Mapping[str, LibvirtNode]
    ) -> None:
        self._backend = backend
        self._connection = connection
        self._nodes = nodes
        self._listener: Listener | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._ended = False
        self._away = ""

    async def begin(self) -> None:
        """Listen to the daemon's events.

        Raises:
            libvirt.libvirtError: that is not possible.
        """
        self._listener = await self._connection.call(
            Listener, self._connection.raw, self._heard, self._heard_of_the_end
        )

    async def end(self) -> None:
        """Stop listening."""
        self._ended = True
        listener, self._listener = self._listener, None
        if listener is not None:
            await self._connection.call(listener.close)

    async def require(self) -> None:
        """Return when the state of all nodes is known, at once unless the daemon was away.

        Raises:
            BackendUnavailable: it still is.
        """
        if not self._away or self._ended:
            return
        async with self._turn:
            if self._away:
                await self._come_back()

    async def _come_back(self) -> None:
        try:
            with anyio.fail_after(_BACK_SECONDS):
                await self._reconnect()
        except (TimeoutError, libvirt.libvirtError) as error:
            raise self._gone(str(error) or "it does not answer") from error

    async def _reconnect(self) -> None:
        raw = await to_thread.run_sync(open_raw, self._connection.uri, abandon_on_cancel=True)
        self._connection.raw = raw
        await self.begin()
        self._away = ""
        for node in list(self._nodes.values()):
            if node.is_alive and not await self._connection.call(_exists, raw, node.domain):
                node.died("its domain ended while the libvirt daemon was away")

    # --- in libvirt's thread ---

    def _heard(self, event: DomainEvent) -> None:
        self._hand_over(self._happened, event)

    def _heard_of_the_end(self, why: str) -> None:
        self._hand_over(self._broken_off, why)

    def _hand_over(self, function: Any, argument: object) -> None:
        if not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    # --- in the lab's ---

    def _happened(self, event: DomainEvent) -> None:
        for node in self._nodes.values():
            if node.domain == event.name:
                node.happened(event)

    def _broken_off(self, why: str) -> None:
        if not self._ended:
            self._away, self._listener = why, None

    def _gone(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(
            self._backend,
            f"its daemon at {self._connection.uri} is not there any more: {self._away}; {what}",
            resolution="look at the daemon's log, and start it again; its guests may have ended",
        )


def _exists(raw: Any, domain: str) -> bool:
    try:
        raw.lookupByName(domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE:
            return False
        raise
    return True
