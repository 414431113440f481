"""Having containers on the networks of their plan: by Docker, before or after their start, or by us.

Where Docker attaches a container to several networks, it names the devices by an order of its own, chooses
MACs and adds routes; so some of it is asked for later, and some is changed afterwards.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress

from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan, NodePlan
from pytest_benchscale.backends.docker import devices, failures, routes
from pytest_benchscale.backends.docker.ability import Ability
from pytest_benchscale.backends.docker.announce import announce
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.network import Wiring, joins_in_order, routes_of
from pytest_benchscale.backends.docker.node import DockerNode
from pytest_benchscale.backends.docker.plugging import Plugs
from pytest_benchscale.backends.docker.spec import endpoint
from pytest_benchscale.errors import LabError

__all__ = ["Attachments"]

_NOT_ATTACHED = (403, 404)
_MTU = "com.docker.network.driver.mtu"


@dataclasses.dataclass
class Attachments:
    """The attachments of the containers of one lab.

    `plugs` are the links that we make, where we may.
    """

    engine: Engine
    wirings: Mapping[str, Wiring]
    ability: Ability
    dialect: Dialect
    plugs: Plugs | None = None

    async def learn(self, network: str, identifier: str) -> str | None:
        """Be told of a network that was made; return its bridge, None where the daemon does not tell."""
        prefix = self.dialect.bridge_prefix
        if prefix is None:
            return None
        bridge = f"{prefix}{identifier[:12]}"
        if self.plugs is not None:
            known = await self.engine.call(self.engine.client.inspect_network, identifier)
            mtu = (known.get("Options") or {}).get(_MTU)
            self.plugs.learn(network, bridge, int(mtu) if mtu else None)
        return bridge

    async def binds(self, node: DockerNode) -> Sequence[str] | None:
        """Decide on the links of a container that will be made; return what `container_config` wants.

        Raises:
            LabError: a file cannot be written.
        """
        plan, plugs = node.plan, self.plugs
        node.is_plugged = plugs is not None and not node.own_command and plugs.are_for(plan)
        if plugs is None or not node.is_plugged:
            return None
        try:
            node.names, binds = await to_thread.run_sync(plugs.binds, plan)
        except OSError as error:
            raise LabError(
                f"node {plan.name!r}: the names of the others cannot be written for it: {error}",
                node=plan.name,
                step="networks",
            ) from error
        return binds

    async def forget(self, node: DockerNode) -> None:
        """Remove the name files of a container that is gone."""
        if node.names is not None:
            # What cannot be removed goes with the lab's other files.
            await to_thread.run_sync(
                functools.partial(shutil.rmtree, node.names, ignore_errors=True)
            )

    async def join_before_start(self, node: DockerNode) -> None:
        """Attach a container that was created on its first network to those that need not wait.

        Raises:
            LabError: the daemon refuses.
        """
        for interface in self._sooner(node)[1:]:
            await self._join(node, interface)

    async def join_after_start(self, node: DockerNode) -> None:
        """Attach a started container to those networks that had to wait until then.

        Raises:
            LabError: the daemon refuses.
        """
        for interface in self._later(node):
            await self._join(node, interface)

    async def leave_later_networks(self, node: DockerNode) -> None:
        """Detach a stopped container from what it must join after its start: its devices keep their order.

        Raises:
            LabError: the daemon refuses.
        """
        for interface in self._later(node):
            network = self.wirings[interface.network].docker_name
            try:
                await self.engine.call(
                    self.engine.client.disconnect_container_from_network,
                    node.container,
                    network,
                    force=True,
                )
            except ApiError as error:
                if error.status not in _NOT_ATTACHED:  # its last start came not so far
                    raise failures.explain(
                        error, f"node {node.plan.name!r} was not detached", "start", node.plan.name
                    ) from error

    async def settle(self, node: DockerNode, pid: int, *, again: bool) -> None:
        """Make the network of a started container what the plan says; `pid` is its main process.

        `again`: its neighbours may have looked for it in vain.

        Raises:
            OSError: the kernel refuses to make its links, or it has ended.
            LabError: a route could not be set.
        """
        plan = node.plan
        if node.is_plugged:
            if self.plugs is None:
                raise PermissionError(
                    errno.EPERM, "only a process that may make links can start it"
                )
            await to_thread.run_sync(self.plugs.plug, plan, pid, routes_of(plan, self.wirings))
        else:
            await self._settle_routes(node, pid)
        if routes.can_be_set(self.engine):
            with suppress(OSError):  # then its neighbours find it a little later
                changed = not node.is_plugged and await self._settle_macs(plan, pid)
                if changed or again:
                    await announce(pid, plan.interfaces)

    async def part(self, node: DockerNode) -> None:
        """Remove the links of ours that a container has had, which has ended."""
        if node.is_plugged and self.plugs is not None:
            with suppress(OSError):  # then they go with its namespace
                await to_thread.run_sync(self.plugs.unplug, node.plan)

    async def _join(self, node: DockerNode, interface: InterfacePlan) -> None:
        settings = endpoint(node.plan, interface, self.ability)
        ipam = settings["IPAMConfig"]
        try:
            await self.engine.call(
                self.engine.client.connect_container_to_network,
                node.container,
                self.wirings[interface.network].docker_name,
                ipv4_address=ipam.get("IPv4Address"),
                ipv6_address=ipam.get("IPv6Address"),
                aliases=settings["Aliases"],
                mac_address=settings.get("MacAddress"),
            )
        except ApiError as error:
            what = f"node {node.plan.name!r} could not be attached to network {interface.network!r}"
            raise failures.explain(error, what, "networks", node.plan.name) from error

    def _sooner(self, node: DockerNode) -> tuple[InterfacePlan, ...]:
        """Return the attachments that a container may have before it starts, and keep their device names.

        Of three and more, Docker sorts but the first.
        """
        interfaces = () if node.is_plugged else node.plan.interfaces
        if len(interfaces) < 2 or not self.dialect.sorts_networks:
            return interfaces
        first, second, *_ = interfaces
        in_order = joins_in_order(self.wirings[first.network], self.wirings[second.network])
        return interfaces[: 2 if in_order else 1]

    def _later(self, node: DockerNode) -> tuple[InterfacePlan, ...]:
        return () if node.is_plugged else node.plan.interfaces[len(self._sooner(node)) :]

    async def _settle_routes(self, node: DockerNode, pid: int) -> None:
        wanted = routes_of(node.plan, self.wirings)
        if self.engine.address.is_local:
            work = functools.partial(
                routes.settle, pid, wanted, may_change=routes.can_be_set(self.engine)
            )
            # An error: the daemon is in a machine of its own, or the container has ended.
            with suppress(OSError):
                if await to_thread.run_sync(work):
                    return
        await routes.change_by_exec(self.engine, str(node.container), wanted, node.plan.name)

    async def _settle_macs(self, plan: NodePlan, pid: int) -> bool:
        """Set the MACs that the daemon chose by itself, as some do but for the first network's."""
        if len(plan.interfaces) < 2:
            return False
        work = functools.partial(devices.settle, plan.interfaces)
        return await to_thread.run_sync(inside, pid, work)
