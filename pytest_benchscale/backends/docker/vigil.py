"""Knowing how a lab's containers are: told by the daemon's events, asked for when these were missed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio

from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.events import Watch
from pytest_benchscale.backends.docker.node import DockerNode, how_it_ended
from pytest_benchscale.errors import BackendUnavailable

__all__ = ["Vigil"]

_PAUSE = 0.05
_BACK_SECONDS = 5.0
"""How long a daemon that was away may take to answer before the next call on its lab fails."""


class Vigil:
    """Keeps the state of nodes true while the daemon is there, and tells when it is not."""

    def __init__(
        self,
        engine: Engine,
        labels: Mapping[str, str],
        nodes: Mapping[str, DockerNode],
        dialect: Dialect,
    ) -> None:
        self._engine = engine
        self._labels = labels
        self._nodes = nodes
        self._dialect = dialect
        self._watch: Watch | None = None
        self._since = 0
        self._turn = asyncio.Lock()
        self._ended = False
        self._return: asyncio.Future[None] | None = None

    async def begin(self, since: int) -> None:
        """Listen to the daemon's events from a time on (its own, in seconds since 1970).

        Raises:
            ApiError, BackendUnavailable: that is not possible.
        """
        self._since = since
        self._watch = await Watch.open(
            self._engine, self._labels, since, self._event, self._broken_off
        )

    async def require(self) -> None:
        """Return when the state of all nodes is known, at once unless the daemon was away.

        Raises:
            BackendUnavailable: it still is.
        """
        if self._watch is not None or self._ended:
            return
        async with self._turn:
            if self._watch is None:
                await self._come_back()

    async def _come_back(self) -> None:
        try:
            with anyio.fail_after(_BACK_SECONDS):
                await self.begin(self._since)
                await self._look_after_all()
        except TimeoutError:
            self.end(for_good=False)
            raise self._gone("it does not answer") from None
        except ApiError as error:
            self.end(for_good=False)
            raise self._gone(str(error)) from error

    def end(self, *, for_good: bool = True) -> None:
        """Stop listening."""
        self._ended = for_good
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        if for_good and self._return is not None:
            self._return.cancel()

    def _event(self, event: Mapping[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        node = self._nodes.get(attributes.get("benchscale.node", ""))
        if node is None or node.container != actor.get("ID"):
            return
        when = event.get("timeNano") or event.get("time", 0) * 10**9
        self._since = max(self._since, when // 10**9)  # from here on, should the stream break
        # "exec_create: sh -c ..." is the action of an event, too.
        action = str(event.get("Action") or event.get("status")).partition(":")[0]
        if action in self._dialect.out_of_memory:
            node.ran_out_of_memory(when)
        elif action in self._dialect.died:
            node.died(when, how_it_ended(attributes))

    def _broken_off(self) -> None:
        """Find out whether the daemon went away: Podman ends the stream when its log of events is full."""
        self._watch = None
        self._return = asyncio.ensure_future(self._return_at_once())

    async def _return_at_once(self) -> None:
        """Listen again; when that is not possible, whatever runs through the daemon is lost."""
        try:
            await anyio.sleep(_PAUSE)
            await self.require()
        except BackendUnavailable as error:
            for node in self._nodes.values():
                node.lost(error)

    async def _look_after_all(self) -> None:
        """Ask how every node is."""
        alive = [node for node in self._nodes.values() if node.is_alive]
        await asyncio.gather(
            *(self._look_after(node, node.container) for node in alive if node.container)
        )

    async def _look_after(self, node: DockerNode, container: str) -> None:
        try:
            known = await self._engine.call(self._engine.client.inspect_container, container)
        except ApiError as error:
            if error.status != 404:
                raise
            node.gone()
        else:
            node.seen(known["State"])

    def _gone(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(
            self._engine.name,
            f"its daemon at {self._engine.address} is not there any more: {what}",
            resolution="look at the daemon's log, and start it again; its containers may have ended",
        )
