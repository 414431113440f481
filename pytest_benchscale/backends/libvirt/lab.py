"""What a lab has at a libvirt daemon: guests, networks, keys, and machines that were there before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_benchscale.backends.base import LabPlan, NodeInfo
from pytest_benchscale.backends.libvirt.ability import check_memory
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.blueprint import way_out
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.existing import ExistingMachine
from pytest_benchscale.backends.libvirt.failures import told
from pytest_benchscale.backends.libvirt.guests import Guests
from pytest_benchscale.backends.libvirt.keeping import require_networks
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.links import Taps
from pytest_benchscale.backends.libvirt.naming import Names
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.owned import forget_logs
from pytest_benchscale.backends.libvirt.site import Site
from pytest_benchscale.backends.libvirt.ways import SSH_PORT
from pytest_benchscale.errors import LabError
from pytest_benchscale.network.link import Link
from pytest_benchscale.transports.ssh.login import LoginFailed

__all__ = ["LibvirtLab"]


class LibvirtLab:
    """What a lab has at the daemon."""

    def __init__(self, connection: Connection, plan: LabPlan, acceleration: Acceleration) -> None:
        self.connection = connection
        self.names = Names.of(plan)
        self.networks = Networks(connection, plan, self.names)
        self.keys = LabKeys(plan.lab_id, plan.files)
        self.taps = Taps(connection, self.names, plan.timeout_scale)
        self._plan = plan
        self._acceleration = acceleration
        self._site: Site | None = None
        self._guests: Guests | None = None
        self._existing: dict[str, ExistingMachine] = {}

    @property
    def guests(self) -> Guests:
        """The machines that are made.

        Raises:
            LabError: the lab is not open.
        """
        if self._guests is None:
            raise LabError("the lab is not open", step="open")
        return self._guests

    async def open(self) -> None:
        """Find the storage, and make the network by which we reach the guests.

        Raises:
            LabError: that is not possible.
        """
        site = self._site = await Site.find(self.connection)
        self._guests = self._guests_at(site, outlive_us=self._plan.may_keep)
        check_memory(self._plan, site.memory_mb)
        made = [node for node in self._plan.nodes if node.spec.existing is None]
        if made:
            await self.networks.create_management(
                nat=any(way_out(self._plan, node) for node in made)
            )
            await self._require_way()

    async def keep(self, nodes: Sequence[LibvirtNode]) -> dict[str, Any]:
        """Leave everything as it is; return what `adopt` needs, as JSON has it.

        Raises:
            LabError: that is not possible.
        """
        state = await self.guests.let_go([node for node in nodes if node.is_ours])
        await self.let_go()
        return {"networks": self.networks.noted(), "nodes": state}

    async def adopt(self, nodes: Sequence[LibvirtNode], state: Mapping[str, Any]) -> list[NodeInfo]:
        """Use what another process has kept; nothing is changed where that is not whole.

        Raises:
            LabError: something is missing.
        """
        site = self._site = await Site.find(self.connection)
        self._guests = self._guests_at(site, outlive_us=True)
        wanted = self.networks.take_over(state["networks"])
        with told("the kept networks cannot be looked up", "adopt"):
            await self.connection.call(require_networks, self.connection.raw, wanted, self.names)
        for node in nodes:
            if node.is_ours:
                await self._guests.take_over(node, state["nodes"][node.plan.name])
            else:
                await self.use(node)
        return [self.info(node) for node in nodes]

    def _guests_at(self, site: Site, *, outlive_us: bool) -> Guests:
        return Guests(
            site,
            self._plan,
            self.names,
            networks=self.networks,
            keys=self.keys,
            acceleration=self._acceleration,
            outlive_us=outlive_us,
        )

    async def use(self, node: LibvirtNode) -> None:
        """Use a machine that is there already."""
        machine = ExistingMachine(self.connection, self._plan, node)
        self._existing[node.plan.name] = machine
        await machine.use()

    def info(self, node: LibvirtNode) -> NodeInfo:
        """Return the state of a node."""
        machine = self._existing.get(node.plan.name)
        return node.info() if machine is None else machine.info()

    async def release(self, node: LibvirtNode) -> None:
        """Leave a machine that was there already as it was."""
        machine = self._existing.pop(node.plan.name, None)
        if machine is not None:
            await machine.release()

    async def remove_all(self) -> None:
        """Remove everything of the lab, whether or not we know that it is there.

        Raises:
            LabError: something could not be removed.
        """
        with told("what is left of the lab could not be removed", "close"):
            if self._guests is not None and self._site is not None:
                await self.connection.call(self._guests.destroy_all)
                await self._site.storage.delete_all(self.names.volumes)
            if self.connection.is_local:
                await self.connection.call(forget_logs, self.names.run, self.names.lab_id)
        await self.networks.delete_all()

    async def links(self, node: LibvirtNode) -> Mapping[str, Link]:
        """Return where conditions of a node are applied: at its taps, or in a machine that was there."""
        machine = self._existing.get(node.plan.name)
        return self.taps.of(node.plan) if machine is None else await machine.links()

    async def has_netem(self) -> bool:
        """Return whether the kernel of each link can delay and lose packets, as far as it can be asked."""
        answers = [await machine.has_netem() for machine in self._existing.values()]
        if any(node.spec.existing is None for node in self._plan.nodes):
            answers.append(await self.taps.has_netem())
        return all(answers)

    async def let_go(self) -> None:
        """Take back all that acts on links, and leave the machines that were there already."""
        for machine in self._existing.values():
            await machine.release()
        await self.taps.aclose()

    # --- parts ---

    async def _require_way(self) -> None:
        """Return when the guests could be reached from here: it would be a pity to boot them first."""
        if (way := self.connection.way) is not None:
            try:
                await way.require_forwarding(str(self.networks.management_host), SSH_PORT)
            except LoginFailed as failed:
                raise LabError(failed.reason, step="ssh", resolution=failed.resolution) from failed
