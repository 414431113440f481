"""The traffic control of a container's network, changed by us from within its namespace."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan
from pytest_benchscale.backends.docker import devices
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.node import Fate
from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.network.steps import Step
from pytest_benchscale.network.traffic import TrafficControl

__all__ = ["EnteredConduit", "enter"]


class EnteredConduit:
    """The way to the kernel for one run of a container: a socket that was opened in its namespace.

    No daemon and no tool is needed, and nothing of it is outside the container.
    """

    def __init__(self, traffic: TrafficControl, limit: anyio.CapacityLimiter, fate: Fate) -> None:
        self._traffic = traffic
        self._limit = limit
        self._fate = fate
        self._turn = threading.Lock()
        self._error: BenchscaleError | None = None

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps in a worker thread.

        Raises:
            OSError: the kernel refused one.
            NodeDied: the container has ended, and with it everything that acted on its links.
        """
        try:
            await to_thread.run_sync(self._carry_out, steps, limiter=self._limit)
        except OSError as error:
            if (reason := await self._fate()) is not None:
                raise reason from error
            raise

    def lost(self, error: BenchscaleError) -> None:
        """Let go of the namespace: the container has ended. What is under way comes to its end."""
        self._error = self._error or error
        self._let_go()

    def _carry_out(self, steps: Sequence[Step]) -> None:
        try:
            with self._turn:
                if self._error is not None:
                    raise self._error
                self._traffic.carry_out(steps)
        finally:
            if self._error is not None:
                self._let_go()

    def _let_go(self) -> None:
        """Close the socket, unless somebody is using it, who then does."""
        if self._turn.acquire(blocking=False):
            self._traffic.close()
            self._turn.release()


async def enter(
    pid: int, interfaces: Sequence[InterfacePlan], limit: anyio.CapacityLimiter, fate: Fate
) -> tuple[EnteredConduit, dict[str, str]]:
    """Return the way to the traffic control of a container, and its devices by network.

    Raises:
        OSError: this process has no such namespace, or may not enter it.
    """

    def work() -> tuple[TrafficControl, dict[str, str]]:
        found = devices.find(interfaces)
        return TrafficControl(), found

    traffic, found = await to_thread.run_sync(inside, pid, work, limiter=limit)
    return EnteredConduit(traffic, limit, fate), found
