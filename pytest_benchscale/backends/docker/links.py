"""Where conditions and cuts of containers' links are applied: at their own devices, within their network.

So nothing is left on the daemon's machine, whatever becomes of this process. Where we may, we enter the
network; else a helper container does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import anyio
from anyio import to_thread

from pytest_benchscale.backends import kernel
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.backends.docker import devices, routes
from pytest_benchscale.backends.docker.containers import Containers
from pytest_benchscale.backends.docker.entered import enter
from pytest_benchscale.backends.docker.helper import HelpedConduit, Helper
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.node import DockerNode, Fate, NodeConduit
from pytest_benchscale.backends.program_echoes import ProgramEchoes, Programs
from pytest_benchscale.errors import BackendUnavailable, NodeDied
from pytest_benchscale.network.echo import Echoes, SocketEchoes
from pytest_benchscale.network.link import Link, Side
from pytest_benchscale.network.prober import open_sockets

__all__ = ["Access"]

_AT_ONCE = 8  # changes; the kernel makes one at a time


class Access:
    """The way to the links of one lab's containers. `info` is what the daemon tells of itself."""

    def __init__(self, containers: Containers, info: Mapping[str, Any]) -> None:
        here = os.uname().release
        of_this_kernel = info.get("KernelVersion", here) == here
        self._enters = of_this_kernel and routes.can_be_set(containers.engine)
        self._name = containers.engine.name
        self._helper = Helper(containers)
        self._programs: dict[str, Programs] = {}
        self._limit = anyio.CapacityLimiter(_AT_ONCE)

    async def has_netem(self) -> bool:
        """Return whether the kernel of the containers can delay and lose packets."""
        if not self._enters:
            return await self._helper.has_netem()
        try:
            return await to_thread.run_sync(kernel.has_netem, limiter=self._limit)
        except OSError as error:
            raise BackendUnavailable(
                self._name,
                f"traffic control cannot be tried on this machine: {error}",
                resolution="run pytest with the capabilities SYS_ADMIN and NET_ADMIN",
            ) from error

    async def links(self, node: DockerNode, fate: Fate) -> Mapping[str, Link]:
        """Return a running container's links by network; the same ones until it ends.

        Raises:
            NodeDied: it has ended.
        """
        async with node.linking:
            return await self._links(node, fate)

    async def echoes(self, node: DockerNode, fate: Fate) -> Echoes | None:
        """Return sockets in a container's network; where it cannot be entered, a program in it.

        Raises:
            NodeDied: it has ended.
        """
        _require_alive(node)
        if self._enters and node.plan.interfaces:
            try:
                return await to_thread.run_sync(_open_sockets, node, limiter=self._limit)
            except OSError as error:
                if (reason := await fate()) is not None:
                    raise reason from error
                # As in `_found`.
        if node.status is NodeStatus.PAUSED:
            return None
        _require_alive(node)
        assert node.transport is not None  # noqa: S101  it is alive
        return ProgramEchoes(Programs.of(self._programs, node.plan.name, node.transport))

    async def _links(self, node: DockerNode, fate: Fate) -> Mapping[str, Link]:
        _require_alive(node)
        if node.conduit is None:
            run = node.pid
            conduit, found = await self._found(node, fate)
            try:
                _require_alive(node, run)
            except NodeDied as error:
                conduit.lost(error)
                raise
            node.conduit, node.devices = conduit, found
        return {
            network: Link(device, Side.INSIDE, node.conduit)
            for network, device in node.devices.items()
        }

    async def _found(self, node: DockerNode, fate: Fate) -> tuple[NodeConduit, dict[str, str]]:
        plan = node.plan
        if self._enters and plan.interfaces:
            try:
                return await enter(node.pid, plan.interfaces, self._limit, fate)
            except OSError as error:
                if (reason := await fate()) is not None:
                    raise reason from error
                # The daemon counts processes otherwise: it is in a container, or this process is.
        planned = {one.network: one.device for one in plan.interfaces}
        return HelpedConduit(node, self._helper, fate), planned


def _open_sockets(node: DockerNode) -> SocketEchoes:
    def work() -> SocketEchoes:
        devices.find(node.plan.interfaces)  # it is the node's
        return SocketEchoes(open_sockets())

    return inside(node.pid, work)


def _require_alive(node: DockerNode, pid: int | None = None) -> None:
    """Raise `NodeDied` unless a node runs; with `pid`, still with this main process."""
    if not node.is_alive:
        raise NodeDied(node.plan.name, node.why())
    if pid not in {None, node.pid}:
        raise NodeDied(node.plan.name, "it was started again just now")
