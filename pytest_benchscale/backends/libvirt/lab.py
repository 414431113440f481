"""The guests of one lab: made of an image and a seed, started, waited for, and removed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import libvirt

from pytest_benchscale.backends.base import LabPlan, NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.backends.libvirt import direct_boot, images
from pytest_benchscale.backends.libvirt.ability import needs_way_out
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.cloud_init import Management, documents
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, Link, domain_xml
from pytest_benchscale.backends.libvirt.existing import ExistingMachine
from pytest_benchscale.backends.libvirt.failures import GONE, explain, told
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.naming import Names, mac_of_management
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.readiness import Deadlines, Guest, until_ready
from pytest_benchscale.backends.libvirt.seed import seed_image
from pytest_benchscale.backends.libvirt.storage import Storage
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.login import HostKeys, Login

__all__ = ["LibvirtLab"]

_MEMORY_MB, _VCPUS = 1024, 1  # of a node that asks for nothing
_EMULATION = 3.0  # how much slower than on KVM a guest may boot
_MORE_GRACE = 30.0  # seconds at most, for the same reason
_BOOTS_PER_CPU = 4  # at once, on KVM; each has a processor to itself under emulation
_SSH_PORT = 22


class LibvirtLab:
    """What a lab has at the daemon."""

    def __init__(self, connection: Connection, plan: LabPlan, acceleration: Acceleration) -> None:
        self.connection = connection
        self.names = Names.of(plan)
        self.networks = Networks(connection, plan, self.names)
        self.keys = LabKeys(plan.lab_id)
        self._plan = plan
        self._acceleration = acceleration
        self._storage: Storage | None = None
        self._boots = asyncio.Semaphore(1)
        self._existing: dict[str, ExistingMachine] = {}

    async def open(self) -> None:
        """Find the storage, and make the network by which we reach the guests.

        Raises:
            LabError: that is not possible.
        """
        self._storage = await Storage.open(self.connection)
        with told("the daemon tells nothing of its machine", "open"):
            _, memory_mb, cpus, *_ = await self.connection.call(self.connection.raw.getInfo)
        self._check_memory(memory_mb)
        emulated = self._is_emulated
        self._boots = asyncio.Semaphore(max(2, cpus if emulated else cpus * _BOOTS_PER_CPU))
        made = [node for node in self._plan.nodes if node.spec.existing is None]
        if made:
            await self.networks.create_management(nat=any(map(self._way_out, made)))

    async def use(self, node: LibvirtNode) -> None:
        """Use a machine that is there already."""
        machine = ExistingMachine(self.connection, self._plan, node)
        self._existing[node.plan.name] = machine
        await machine.use()

    def info(self, node: LibvirtNode) -> NodeInfo:
        """Return the state of a node."""
        machine = self._existing.get(node.plan.name)
        return node.info() if machine is None else machine.info()

    def release(self, node: LibvirtNode) -> None:
        """Leave a machine that was there already as it is."""
        machine = self._existing.pop(node.plan.name, None)
        if machine is not None:
            machine.release()

    async def create(self, node: LibvirtNode) -> None:
        """Make a guest's disks, start it, and wait until it is ready."""
        plan, storage = node.plan, self._stored()
        reference, boot = direct_boot.split(plan.image)
        image = await images.fetch(
            reference,
            directory=self._plan.directory,
            cache=images.cache_directory(),
            progress=self._plan.progress,
        )
        size = images.check_size(image, plan.spec.disk_gb, node=plan.name)
        locks = images.cache_directory() / "locks"
        base = await storage.base(image, locks, self._plan.progress)
        volume = self.names.volume
        disk = await storage.overlay(volume(plan.name, "disk"), base, size, plan.name)
        seed = seed_image(self._documents(plan))
        seed_path = await storage.write(volume(plan.name, "seed"), seed, plan.name)
        node.console_path = await storage.empty(volume(plan.name, "console"), plan.name)
        if self.connection.is_local and os.access(node.console_path, os.R_OK):
            node.console = Console(Path(node.console_path))
        spec = self._spec(node, [Disk(disk, "qcow2"), Disk(seed_path, "raw", read_only=True)])
        if boot is not None:
            kernel = await direct_boot.provide(
                boot, storage, self._plan.directory, locks, self._plan.progress
            )
            spec = replace(
                spec,
                kernel=kernel.kernel,
                initramfs=kernel.initramfs,
                command_line=kernel.command_line,
            )
        node.spec = spec
        await self.start(node)

    async def start(self, node: LibvirtNode) -> None:
        """Start a guest and wait until it is ready.

        Raises:
            NodeDied: it ended, or its kernel panicked.
            LabError: the daemon does not start it, or it does not become ready.
        """
        assert node.spec is not None  # noqa: S101  it was created
        async with self._boots:
            if node.console is not None:
                node.console.skip()
            xml = domain_xml(node.spec, node.begins())
            try:
                await self.connection.call(
                    self.connection.raw.createXML, xml, libvirt.VIR_DOMAIN_START_AUTODESTROY
                )
            except libvirt.libvirtError as error:
                name = node.plan.name
                node.status = NodeStatus.STOPPED
                raise explain(
                    error, f"node {name!r} could not be started", "start", name
                ) from error
            node.transport = self._transport(node)
            await self._until_ready(node, node.transport)

    async def delete(self, node: LibvirtNode) -> None:
        """Remove the files of a guest that has ended."""
        name = node.plan.name
        with told(f"the disks of node {name!r} could not be removed", "delete", name):
            for kind in ("disk", "seed", "console"):
                await self._stored().delete(self.names.volume(name, kind))

    async def remove_all(self) -> None:
        """Remove everything of the lab, whether or not we know that it is there.

        Raises:
            LabError: something could not be removed.
        """
        for machine in self._existing.values():
            machine.release()
        with told("what is left of the lab could not be removed", "close"):
            await self.connection.call(self._destroy_domains)
            if self._storage is not None:
                await self._storage.delete_all(self.names.volumes)
        await self.networks.delete_all()

    async def log(self, node: LibvirtNode) -> str:
        """Return what a guest has written to its serial console."""
        if node.console is not None:
            return await self.connection.call(node.console.text)
        if not node.console_path:
            return ""
        name = node.plan.name
        with told(f"the console of node {name!r} cannot be read", "logs", name):
            content = await self._stored().read(node.console_path)
        return content.decode("utf-8", "replace").replace("\r", "")

    def patience(self, grace: float) -> float:
        """Return how long a guest may take to stop: longer where it is emulated, else it loses files."""
        return min(grace * _EMULATION, grace + _MORE_GRACE) if self._is_emulated else grace

    def taps(self, plan: NodePlan) -> Mapping[str, str]:
        """Return the devices on the daemon's machine, by network."""
        return {
            interface.network: self.names.tap(plan.name, number)
            for number, interface in enumerate(plan.interfaces, 1)
        }

    # --- parts ---

    def _documents(self, plan: NodePlan) -> Mapping[str, bytes]:
        networks = self.networks
        way_out = self._way_out(plan)
        management = Management(
            mac_of_management(self._plan.lab_id, plan.name),
            networks.management[plan.name],
            networks.management_host if way_out else None,
            way_out,
        )
        return documents(
            plan,
            instance_id=f"{self._plan.lab_id}-{self.names.nodes[plan.name]}",
            session_key=self.keys.public,
            management=management,
            host_key=self.keys.host_key(plan.name),
            nameservers=self._nameservers(plan),
        )

    def _spec(self, node: LibvirtNode, disks: Sequence[Disk]) -> DomainSpec:
        plan, names = node.plan, self.names
        management = Link(
            names.management,
            mac_of_management(self._plan.lab_id, plan.name),
            names.tap(plan.name, 0),
            isolated=True,
        )
        links = [
            Link(names.network(one.network), one.mac, names.tap(plan.name, number))
            for number, one in enumerate(plan.interfaces, 1)
        ]
        return DomainSpec(
            name=node.domain,
            accelerator=self._acceleration.kind,
            memory_mb=plan.spec.memory_mb or _MEMORY_MB,
            vcpus=int(plan.spec.vcpus or _VCPUS),
            disks=disks,
            links=[management, *links],
            console=node.console_path,
            labels={
                **self._plan.labels,
                "benchscale.lab": self._plan.lab_id,
                "benchscale.node": plan.name,
            },
        )

    def _transport(self, node: LibvirtNode) -> SshTransport:
        name = node.plan.name
        login = Login(
            str(self.networks.management[name].ip),
            _SSH_PORT,
            user="root",
            key=self.keys.path,
            host_keys=HostKeys(pinned=self.keys.host_key(name).public.encode()),
            timeout_scale=self._scale,
        )

        return SshTransport(name, login, env=node.plan.env, fate=node.fate)

    async def _until_ready(self, node: LibvirtNode, transport: SshTransport) -> None:
        guest = Guest(
            node.plan.name,
            str(self.networks.management[node.plan.name].ip),
            _SSH_PORT,
            transport,
            node.death,
            node.console,
            tuple(one.address.ip for one in node.plan.interfaces),
            needs_cloud_init=node.plan.spec.cloud_init is not None and not node.is_set_up,
        )
        await until_ready(
            guest, deadlines=Deadlines().scaled(self._scale), progress=self._plan.progress
        )
        node.is_set_up = True

    @property
    def _scale(self) -> float:
        return self._plan.timeout_scale * (_EMULATION if self._is_emulated else 1)

    @property
    def _is_emulated(self) -> bool:
        return self._acceleration.kind == "qemu"

    def _way_out(self, plan: NodePlan) -> bool:
        outside = {network.name for network in self._plan.networks if network.internet}
        return needs_way_out(plan.spec, outside)

    def _nameservers(self, plan: NodePlan) -> Sequence[IpAddress]:
        host = self.networks.management_host
        if self._way_out(plan) and host is not None:
            return [host]
        own = {interface.network for interface in plan.interfaces}
        return [
            network.gateway
            for network in self._plan.networks
            if network.internet and network.name in own and network.gateway is not None
        ]

    def _check_memory(self, there: int) -> None:
        for node in self._plan.nodes:
            wanted = node.spec.memory_mb or 0
            if wanted > there:
                raise LabError(
                    f"node {node.name!r} wants {wanted} MiB of memory, and the daemon's machine has {there}",
                    node=node.name,
                    step="memory",
                    resolution="give it a smaller `memory_mb`",
                )

    def _destroy_domains(self) -> None:
        for node in self.names.nodes:
            try:
                self.connection.raw.lookupByName(self.names.domain(node)).destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in GONE | {libvirt.VIR_ERR_OPERATION_INVALID}:
                    raise

    def _stored(self) -> Storage:
        if self._storage is None:
            raise LabError("the lab is not open", step="open")
        return self._storage
