"""Nodes as virtual machines of a libvirt daemon, networks as its bridges.

Domains and networks are transient: nothing of them outlasts a restart of their machine, and a domain ends
with our connection. Each carries the lab's labels, volumes carry its id in their names, and only what does is
ever removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, ClassVar

import anyio
import libvirt

from pytest_benchscale.backends.base import (
    Capability,
    LabPlan,
    NetworkInfo,
    NetworkPlan,
    NodeInfo,
    NodePlan,
    NodeStatus,
    OwnedThing,
)
from pytest_benchscale.backends.libvirt import images, networks, owned
from pytest_benchscale.backends.libvirt.ability import notes_on, why_not
from pytest_benchscale.backends.libvirt.acceleration import Acceleration, find_acceleration
from pytest_benchscale.backends.libvirt.connection import Connection, connect, default_uri
from pytest_benchscale.backends.libvirt.failures import ENDED, told
from pytest_benchscale.backends.libvirt.identity import image_id
from pytest_benchscale.backends.libvirt.lab import LibvirtLab
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.site import Site
from pytest_benchscale.backends.libvirt.storage import Storage
from pytest_benchscale.backends.libvirt.vigil import Vigil
from pytest_benchscale.backends.program_echoes import ProgramEchoes, Programs
from pytest_benchscale.errors import BackendUnavailable, LabError, NodeDied, NotSupported
from pytest_benchscale.network.echo import Echoes
from pytest_benchscale.network.link import Link
from pytest_benchscale.topology.addressing import IpNetwork
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.transports.ssh.client import SshTransport

__all__ = ["LibvirtBackend"]

_CAPABILITIES = frozenset(
    {
        Capability.FULL_DISK,
        Capability.CLOCK,
        Capability.PAUSE,
        Capability.STOP,
        Capability.CONDITIONS,
        Capability.PARTITIONS,
        Capability.MEMORY_LIMIT,
        Capability.CPU_LIMIT,
        Capability.DISK_SIZE,
        Capability.INTERNET,
        Capability.CLOUD_INIT,
        Capability.EXISTING,
        Capability.USERS,
        Capability.RESET,
        Capability.KEEP,
    }
)


class LibvirtBackend:
    """Nodes as virtual machines."""

    name: ClassVar[str] = "libvirt"
    links_outlive_nodes: ClassVar[bool] = False
    outlives_us: ClassVar[bool] = True
    shares_addresses: ClassVar[bool] = True
    kill_loses_writes: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[Capability]] = _CAPABILITIES

    def __init__(self) -> None:
        self._programs: dict[str, Programs] = {}
        self._connection: Connection | None = None
        self._lab: LibvirtLab | None = None
        self._vigil: Vigil | None = None
        self._nodes: dict[str, LibvirtNode] = {}

    async def probe(self) -> str:
        """Connect to the daemon, and find out how fast its guests would be; `open` uses the connection."""
        connection = await self._reach()
        found = await self._acceleration(connection)
        with told("the daemon tells nothing of itself", "probe"):
            version = await connection.call(connection.raw.getLibVersion)
            qemu = await connection.call(connection.raw.getVersion)
        return f"{_dotted(version)} (QEMU {_dotted(qemu)}, {found.in_words})"

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        """Return why virtual machines cannot be what the topology wants."""
        return list(why_not(topology, images, default_uri()))

    async def notes(self, topology: Topology) -> Sequence[str]:
        """Return how the topology is run, as far as it is not obvious."""
        acceleration = None
        with suppress(BackendUnavailable, LabError):  # that is told when a lab is wanted
            acceleration = await self._acceleration(await self._reach())
        return list(notes_on(topology, acceleration))

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return the subnets of the daemon's networks, and of its machine's routes."""
        return [one.subnet for one in await networks.in_use(await self._reach())]

    async def open(self, plan: LabPlan) -> None:
        """Prepare storage, keys and the network by which we reach the guests; begin to listen to events."""
        connection = await self._reach()
        self._lab = LibvirtLab(connection, plan, await self._acceleration(connection))
        await self._listen(connection)
        await self._lab.open()

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Create a network on a bridge of its own, unless its subnet belongs to somebody."""
        return await self._opened().networks.create(plan)

    async def delete_network(self, name: str) -> None:
        """Remove a network."""
        if self._lab is not None:
            await self._watching()
            await self._lab.networks.delete(name)

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        """Create a virtual machine and wait until it is ready; or use one that is there."""
        lab, existing = self._opened(), plan.spec.existing
        domain = existing or lab.names.domain(plan.name)
        node = self._nodes[plan.name] = LibvirtNode(plan, domain)
        await (lab.use(node) if existing else lab.guests.create(node))
        return lab.info(node)

    async def start_node(self, name: str) -> NodeInfo:
        """Start a virtual machine again, with the disk that it had."""
        node = self._own(name, Capability.STOP)
        await self._watching()
        if not node.is_alive:
            await self._opened().guests.end(node)
            await self._opened().guests.start(node)
        return node.info()

    async def stop_node(self, name: str, grace: float) -> None:
        """Press the power button of a virtual machine, and pull the plug after `grace`."""
        node = self._own(name, Capability.STOP)
        before, node.status = node.status, NodeStatus.STOPPED
        try:
            with told(f"stop of node {name!r} failed", "stop", name):
                await self._ask(node, "shutdown")
            with anyio.move_on_after(self._opened().guests.patience(grace)):
                await node.ended.wait()
            await self._opened().guests.end(node)
        except BaseException:
            node.status = before if not node.ended.is_set() else node.status
            raise
        node.lost(NodeDied(name, node.why()))

    async def kill_node(self, name: str) -> None:
        """Pull the plug of a virtual machine."""
        node = self._own(name, Capability.STOP)
        before, node.status = node.status, NodeStatus.STOPPED
        try:
            await self._opened().guests.end(node)
        except BaseException:
            node.status = before if not node.ended.is_set() else node.status
            raise
        node.lost(NodeDied(name, node.why()))

    async def pause_node(self, name: str) -> None:
        """Freeze a virtual machine's processors."""
        node = self._own(name, Capability.PAUSE)
        with told(f"pause of node {name!r} failed", "pause", name):
            await self._ask(node, "suspend")
        node.status = NodeStatus.PAUSED if node.is_alive else node.status

    async def resume_node(self, name: str) -> None:
        """Let a frozen virtual machine go on."""
        node = self._own(name, Capability.PAUSE)
        with told(f"resume of node {name!r} failed", "resume", name):
            await self._ask(node, "resume")
        node.status = NodeStatus.RUNNING if node.is_alive else node.status

    async def delete_node(self, name: str) -> None:
        """Remove a virtual machine with its disks; one that was there before stays."""
        node = self._nodes.get(name)
        if node is None:
            return
        if not node.is_ours:
            await self._opened().release(node)
        node.status = NodeStatus.STOPPED if node.is_alive else node.status
        node.lost(NodeDied(name, "it was removed"))
        if node.is_ours:
            await self._watching()
            await self._opened().guests.end(node)
            await self._opened().guests.delete(node)
        self._nodes.pop(name, None)

    async def get_node(self, name: str) -> NodeInfo:
        """Return the node's state; its end is noticed when it happens, not when asked."""
        await self._watching()
        return self._opened().info(self._node(name))

    async def list_nodes(self) -> Sequence[NodeInfo]:
        """Return the state of every node."""
        await self._watching()
        lab = self._opened()
        return [lab.info(node) for node in self._nodes.values()]

    def transport(self, name: str) -> SshTransport:
        """Return the way into a running node."""
        node = self._node(name)
        if node.transport is None or not node.is_alive:
            raise NodeDied(name, node.why())
        return node.transport

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        """Return what the node has written to its serial console."""
        if timestamps:
            raise NotSupported(self.name, Capability.LOG_TIMES)
        return await self._opened().guests.log(self._node(name))

    async def has_netem(self) -> bool:
        """Return whether the kernel of the daemon's machine can, and those of machines that were there."""
        return await self._opened().has_netem()

    async def links(self, name: str) -> Mapping[str, Link]:
        """Return the taps of a guest; of a machine that was there before, its own devices."""
        node = self._node(name)
        if not node.is_alive:
            raise NodeDied(name, node.why())
        return await self._opened().links(node)

    async def echoes(self, name: str) -> Echoes | None:
        """Have a program measure from within; what cannot run one now, since it is paused, gets none."""
        if self._node(name).status is NodeStatus.PAUSED:
            return None
        return ProgramEchoes(Programs.of(self._programs, name, self.transport(name)))

    def place(self) -> Mapping[str, str]:
        """Return what leads another process to the same daemon: the URI that was used."""
        uri = default_uri() if self._connection is None else self._connection.uri
        place = {"LIBVIRT_DEFAULT_URI": uri}
        if "/session" in uri and (directory := os.environ.get("XDG_RUNTIME_DIR")):
            place["XDG_RUNTIME_DIR"] = directory  # where the socket of a user's own daemon is
        return place

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        """Return what changes when an image does: the sum of it, and of what it is started with."""
        return {
            node.name: await image_id(plan, node)
            for node in plan.nodes
            if node.spec.existing is None
        }

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        """Leave the lab to itself: its domains do not end with our connection."""
        await self._watching()
        state = await self._opened().keep(list(self._nodes.values()))
        self._lab = None
        return state

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        """Take over a lab that was kept, if its domains and networks are there, by UUID and labels."""
        connection = await self._reach()
        lab = LibvirtLab(connection, plan, await self._acceleration(connection))
        await self._listen(connection)
        for node in plan.nodes:
            domain = node.spec.existing or lab.names.domain(node.name)
            self._nodes[node.name] = LibvirtNode(node, domain)
        try:
            infos = await lab.adopt(list(self._nodes.values()), state)
        except BaseException:
            await lab.let_go()
            self._nodes.clear()
            raise
        self._lab = lab
        return infos

    async def checkpoint(self, name: str) -> None:
        """Remember how a virtual machine is now, with its memory, in its disk."""
        await self._opened().guests.checkpoint(self._own(name, Capability.RESET))

    async def reset_node(self, name: str) -> NodeInfo:
        """Load the memory and the disk of the checkpoint, and let it go on from there."""
        node = self._own(name, Capability.RESET)
        await self._watching()
        await self._opened().guests.reset(node)
        return node.info()

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """Remove the domains, networks and volumes that carry the labels of a lab, or its name."""
        connection = await self._reach()
        site = await Site.find(connection)  # else the volumes of before a restart are not seen
        with told(f"what lab {lab_id} has left cannot be removed", "delete"):
            await owned.remove(connection, owner, lab_id)
            await site.shelf.sweep()

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Return the domains, networks and volumes of a run."""
        await Storage.open(await self._reach())
        with told("what the run has cannot be listed", "list"):
            return await owned.of_run(await self._reach(), owner)

    async def close(self) -> None:
        """Remove what is left of the lab, also what no call has told of, and leave the daemon."""
        connection, lab = self._connection, self._lab
        if connection is None:
            return
        with ExitStack() as last:
            if lab is not None:
                last.callback(lab.keys.close)
                await lab.let_go()
                for node in self._nodes.values():
                    node.lost(NodeDied(node.plan.name, "its lab is closed"))
                await self._watching()
                await lab.remove_all()
            self._nodes.clear()
            self._lab = self._connection = None
        if self._vigil is not None:
            await self._vigil.end()
        await connection.aclose()

    # --- shared ---

    async def _acceleration(self, connection: Connection) -> Acceleration:
        with told("the daemon does not tell what its guests run on", "probe"):
            return await find_acceleration(connection, images.cache_directory())

    async def _reach(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self.name)
        return self._connection

    async def _listen(self, connection: Connection) -> None:
        self._vigil = Vigil(self.name, connection, self._nodes)
        with told("the daemon sends no events", "open"):
            await self._vigil.begin()

    async def _watching(self) -> None:
        if self._vigil is not None:
            await self._vigil.require()

    def _opened(self) -> LibvirtLab:
        if self._lab is None:
            raise LabError("the lab is not open", step="open")
        return self._lab

    def _node(self, name: str) -> LibvirtNode:
        try:
            return self._nodes[name]
        except KeyError:
            raise LabError(f"there is no node {name!r} in this lab", node=name) from None

    def _own(self, name: str, capability: Capability) -> LibvirtNode:
        """Return a node that we made: who has another one decides when it runs."""
        node = self._node(name)
        if not node.is_ours:
            raise NotSupported(
                self.name,
                capability,
                details=f"node {name!r} is the machine {node.domain!r}, which was there before the lab",
                resolution=f"do it yourself: `virsh` knows {node.domain!r}",
            )
        return node

    async def _ask(self, node: LibvirtNode, method: str) -> None:
        """Ask for a change of a domain's state; that it has ended already is no error."""
        connection = self._opened().connection

        def ask() -> None:
            getattr(connection.raw.lookupByName(node.domain), method)()

        try:
            await connection.call(ask)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in ENDED:
                raise


def _dotted(version: int) -> str:
    """Return libvirt's number of a version, such as 9000000, as 9.0.0."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
