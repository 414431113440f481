"""A request that creates something: whoever gives up on it still learns what has come of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.errors import BackendUnavailable

__all__ = ["Done", "Errand"]


class Errand:
    """One creating request. It is not taken back once it was sent, also when its caller is cancelled.

    So nothing can appear at the daemon after everything was removed: `outcome` waits for what is on its way.
    """

    def __init__(
        self, engine: Engine, function: Callable[..., dict[str, Any]], **options: Any
    ) -> None:
        self._lock = threading.Lock()
        self._sent = False
        self._given_up = False

        def work() -> str | None:
            with self._lock:
                if self._given_up:
                    return None
                self._sent = True
            identifier: str = function(**options)["Id"]
            return identifier

        self._task = asyncio.ensure_future(engine.call(work))
        self._task.add_done_callback(_look)

    async def identifier(self) -> str:
        """Return the id of what was created.

        Raises:
            ApiError: the daemon refused.
            BackendUnavailable: it cannot be reached.
        """
        made = await asyncio.shield(self._task)
        assert made is not None  # noqa: S101  nobody gives up on what is awaited
        return made

    async def outcome(self) -> str | None:
        """Return the id, None when nothing was created; a request not yet sent is given up."""
        with self._lock:
            self._given_up = True
        try:
            return await asyncio.shield(self._task)
        except (ApiError, BackendUnavailable):
            return None


class Done:
    """The same of something that was created by another process."""

    def __init__(self, identifier: str) -> None:
        self._identifier = identifier

    async def identifier(self) -> str:
        """Return the id of what was created."""
        return self._identifier

    async def outcome(self) -> str | None:
        """Return the id."""
        return self._identifier


def _look(task: asyncio.Future[str | None]) -> None:
    """Have asyncio know that the error, if any, needs no further attention."""
    if not task.cancelled():
        task.exception()
