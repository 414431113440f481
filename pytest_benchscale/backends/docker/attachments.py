"""Having containers on the networks of their plan: by Docker, before or after their start, or by us.

Where Docker attaches a container to several networks, it names the devices by an order of its own, chooses
MACs and adds routes; so some of it is asked for later, and some is changed afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan, LabPlan, NodePlan
from pytest_benchscale.backends.docker import devices, failures, plugging, routes
from pytest_benchscale.backends.docker.ability import Ability
from pytest_benchscale.backends.docker.announce import announce
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.network import Wiring, joins_in_order, routes_of
from pytest_benchscale.backends.docker.node import DockerNode
from pytest_benchscale.backends.docker.spec import endpoint
from pytest_benchscale.errors import LabError

__all__ = ["Attachments"]

_NOT_ATTACHED = (403, 404)


@dataclasses.dataclass
class Attachments:
    """The attachments of the containers of one lab.

    `plugged` are the nodes whose links are ours as long as they run nothing of their own; `files` is where
    what these need is written, and `bridges` names the bridges of the networks.
    """

    engine: Engine
    wirings: Mapping[str, Wiring]
    ability: Ability
    dialect: Dialect
    plugged: frozenset[str] = frozenset()
    files: Path | None = None
    bridges: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    async def of(
        cls,
        engine: Engine,
        lab: LabPlan,
        wirings: Mapping[str, Wiring],
        ability: Ability,
        dialect: Dialect,
    ) -> Self:
        """Find out whose links can be made by us."""
        plugged, files = frozenset[str](), lab.files
        may_plug = dialect.bridge_prefix is not None and files is not None
        # In a bind of Docker's a colon ends the path.
        if (
            may_plug
            and ":" not in str(files)
            and await to_thread.run_sync(plugging.shares_this_machine, engine.address)
        ):
            plugged = plugging.chosen(lab)
        return cls(engine, wirings, ability, dialect, plugged, files)

    async def binds(self, node: DockerNode) -> Sequence[str] | None:
        """Decide on the links of a container that will be made; return what `container_config` wants.

        Raises:
            LabError: a file cannot be written.
        """
        name = node.plan.name
        node.is_plugged = name in self.plugged and not node.own_command
        if not node.is_plugged or self.files is None:
            return None
        try:
            return await to_thread.run_sync(plugging.binds, node.plan, self.files)
        except OSError as error:
            raise LabError(
                f"node {name!r}: the names of the others cannot be written for it: {error}",
                node=name,
                step="networks",
            ) from error

    def bridge(self, network: str, identifier: str) -> str | None:
        """Remember, and return, the bridge of one of Docker's networks; None: the daemon does not tell."""
        prefix = self.dialect.bridge_prefix
        if prefix is None:
            return None
        return self.bridges.setdefault(network, f"{prefix}{identifier[:12]}")

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
            wanted = routes_of(plan, self.wirings)
            work = functools.partial(plugging.plug, pid, plan.interfaces, self.bridges, wanted)
            await to_thread.run_sync(work)
        else:
            await self._settle_routes(node, pid)
        if routes.can_be_set(self.engine):
            with suppress(OSError):  # then its neighbours find it a little later
                changed = not node.is_plugged and await self._settle_macs(plan, pid)
                if changed or again:
                    await announce(pid, plan.interfaces)

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
