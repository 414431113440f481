"""The Docker SDK from an event loop: every call runs in a worker thread and has a deadline.

The SDK blocks; the loop never does. Its errors become ours here, so that nothing above this module
needs to know the SDK.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import docker
import docker.errors
import requests.exceptions
from anyio import to_thread

from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.container.api import ApiError
from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["AT_ONCE", "READ_SECONDS", "ApiError", "Engine"]

T = TypeVar("T")

AT_ONCE = 8
"""How many calls a daemon gets at the same time; more make it slower, not faster."""

_infos: dict[str, Mapping[str, Any]] = {}

READ_SECONDS = 60.0
"""How long the daemon may be silent in the middle of an answer."""


class Engine:
    """A connection to one daemon, for the backend named `name`.

    `client` is the SDK's low-level client. Calls of bring-up and of teardown go through `call`;
    what may wait for hours, such as following events, through a client's own thread (`stream`).
    """

    def __init__(self, name: str, client: docker.APIClient, address: DaemonAddress) -> None:
        self.name = name
        self.client = client
        self.address = address
        self._limit = anyio.CapacityLimiter(AT_ONCE)
        self._building = 0
        self._at_leisure = asyncio.Event()
        self._at_leisure.set()

    async def call(self, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call a method of `client` in a worker thread.

        A caller that is cancelled does not wait for the daemon; what it asked for may still happen.

        Raises:
            ApiError: the daemon refused.
            BackendUnavailable: it cannot be reached, or did not answer in time.
        """
        return await to_thread.run_sync(
            functools.partial(self._guarded, function, *args, **options),
            limiter=self._limit,
            abandon_on_cancel=True,
        )

    async def info(self) -> Mapping[str, Any]:
        """Return what the daemon tells of itself; asked once in this process, since it is costly.

        Raises:
            ApiError, BackendUnavailable: as `call`.
        """
        place = f"{self.address} {self.address.path} {self.client.api_version}"
        if place not in _infos:
            _infos[place] = await self.call(self.client.info)
        return _infos[place]

    @asynccontextmanager
    async def building(self) -> AsyncIterator[None]:
        """Mark a span in which the daemon is needed for bring-up; `leisure` waits for its end."""
        self._building += 1
        self._at_leisure.clear()
        try:
            yield
        finally:
            self._building -= 1
            if not self._building:
                self._at_leisure.set()

    async def leisure(self) -> None:
        """Return once no bring-up needs the daemon."""
        await self._at_leisure.wait()

    async def aclose(self) -> None:
        """Close the connections."""
        await to_thread.run_sync(self.client.close)

    def _guarded(self, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
        try:
            return function(*args, **options)
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 0
            raise ApiError(status, str(error.explanation or error)) from error
        except requests.exceptions.ReadTimeout as error:
            raise BackendUnavailable(
                self.name,
                f"its daemon at {self.address} has not answered for {READ_SECONDS:g} s",
                resolution="look at the daemon's log; it may be stopped or overloaded",
            ) from error
        except (requests.exceptions.RequestException, docker.errors.DockerException) as error:
            raise BackendUnavailable(
                self.name,
                f"its daemon at {self.address} cannot be reached: {error}",
                resolution="check that the daemon still runs",
            ) from error
