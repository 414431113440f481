"""Removing what a lab has at its daemon, also when the daemon is away for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import docker

from pytest_benchscale.backends.docker import bridges
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.errors import BackendUnavailable, LabError

__all__ = ["Remover"]

T = TypeVar("T")

PATIENCE = 25.0
"""Seconds that a daemon may be away; shorter than the lab's own deadline, so that its error is ours."""

_PAUSE = 0.25
_ALIVE_SECONDS = 3.0  # for the first answer of a daemon that left us waiting before
_ENDPOINT_SECONDS = 5.0  # after which what is on a network is not just on its way off it
_GONE, _CONFLICT, _FORBIDDEN = 404, 409, 403


class Remover:
    """Deletes by id and by label, and asks again while the daemon cannot be reached.

    All removals of a lab share one patience: a daemon that stayed away once is given up by the others too.
    """

    def __init__(self, engine: Engine, scale: float, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect
        self._patience = PATIENCE * scale
        self._away_since: float | None = None
        self._unanswered = False

    @property
    def client(self) -> docker.APIClient:
        """The daemon's, for `ask`."""
        return self._engine.client

    async def container(self, identifier: str, *, paused: bool = False) -> None:
        """Remove a container, running or not, with its anonymous volumes; one that is gone is no error."""
        client = self._engine.client
        if paused:  # the daemon may wait for ever for the end of what was frozen while it started
            with suppress(ApiError):
                await self.ask(client.unpause, identifier)
        while True:
            try:
                await self.ask(client.remove_container, identifier, v=True, force=True)
            except ApiError as error:
                if error.status == _GONE:
                    return
                if error.status != _CONFLICT:
                    raise
                # Its removal is in progress already: what a cancelled request asked for.
                await anyio.sleep(_PAUSE)
                continue
            return

    async def network(self, identifier: str) -> None:
        """Remove a network; one that is gone is no error.

        Raises:
            LabError: something is still on it.
        """
        deadline = anyio.current_time() + _ENDPOINT_SECONDS
        while True:
            try:
                if self._dialect.forgets_bridges:
                    await bridges.remove_idle(
                        self._engine.address, self.ask, self.client, identifier
                    )
                await self.ask(self._engine.client.remove_network, identifier)
            except ApiError as error:
                if error.status == _GONE:
                    return
                if error.status != _FORBIDDEN or "active endpoints" not in error.explanation:
                    raise
                if anyio.current_time() >= deadline:
                    raise await self._still_in_use(identifier) from error
                # A container on it is being removed just now.
                await anyio.sleep(_PAUSE)
                continue
            return

    async def _still_in_use(self, identifier: str) -> LabError:
        network = await self.ask(self._engine.client.inspect_network, identifier)
        name = network["Name"]
        others = sorted(one["Name"] for one in (network.get("Containers") or {}).values())
        if others:
            return LabError(
                f"network {name!r} cannot be removed: {', '.join(others)} is still on it",
                step="network",
                resolution=f"`docker network disconnect {name} {others[0]}`, then "
                f"`docker network rm {name}`",
            )
        return LabError(
            f"network {name!r} cannot be removed: the daemon says that something is on it, and not what",
            step="network",
            resolution="the daemon has lost count, as Docker 20.10 may when many containers come and "
            f"go at once: restart it, then `docker network rm {name}`",
        )

    async def everything(self, labels: Mapping[str, str]) -> None:
        """Remove all containers, then all networks, that carry these labels."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        client = self._engine.client
        await self._each(
            self.container, await self.ask(client.containers, all=True, filters=filters)
        )
        await self._each(self.network, await self.ask(client.networks, filters=filters))

    async def ask(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> T:
        """Call the daemon; again, for a while, when it cannot be reached.

        Raises:
            ApiError: it refused.
            BackendUnavailable: it stays away.
        """
        while True:
            try:
                await self._check_that_it_answers()
                answer = await self._engine.call(function, *arguments, **options)
            except asyncio.CancelledError:
                self._unanswered = True
                raise
            except BackendUnavailable:
                now = anyio.current_time()
                if self._away_since is None:
                    self._away_since = now
                if now - self._away_since >= self._patience:
                    raise
                await anyio.sleep(_PAUSE)
                continue
            self._away_since, self._unanswered = None, False
            return answer

    async def _check_that_it_answers(self) -> None:
        """Have a daemon that left a request unanswered show first that it answers at all."""
        if not self._unanswered:
            return
        with anyio.move_on_after(_ALIVE_SECONDS):
            await self._engine.call(self._engine.client.ping)
            return
        self._away_since = self._away_since or anyio.current_time() - self._patience
        raise BackendUnavailable(
            self._engine.name,
            f"its daemon at {self._engine.address} does not answer",
            resolution="look at the daemon's log; what is left of the lab can be removed later",
        )

    async def _each(
        self, remove: Callable[[str], Coroutine[Any, Any, None]], things: list[Mapping[str, Any]]
    ) -> None:
        work = (remove(thing["Id"]) for thing in things)
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        for failure in outcomes:
            if failure is not None:
                raise failure
