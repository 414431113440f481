"""The guests of one lab: made of an image and a seed, started, waited for, and removed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libvirt

from pytest_benchscale.backends.base import LabPlan, NodeInfo, NodeStatus
from pytest_benchscale.backends.libvirt import direct_boot, images
from pytest_benchscale.backends.libvirt.ability import check_memory
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.blueprint import Blueprints, way_out
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, domain_xml
from pytest_benchscale.backends.libvirt.existing import ExistingMachine
from pytest_benchscale.backends.libvirt.failures import ENDED, explain, told
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.links import Taps
from pytest_benchscale.backends.libvirt.naming import Names
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.prepared import (
    SNAPSHOT,
    Prepared,
    Shelf,
    TooLarge,
    key_of,
)
from pytest_benchscale.backends.libvirt.readiness import Deadlines, Guest, Ready, until_ready
from pytest_benchscale.backends.libvirt.seed import seed_image
from pytest_benchscale.backends.libvirt.storage import Storage
from pytest_benchscale.backends.libvirt.waking import until_awake, until_quiet
from pytest_benchscale.errors import LabError, NodeDied
from pytest_benchscale.network.link import Link
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.login import HostKeys, Login, LoginFailed

__all__ = ["LibvirtLab"]

_EMULATION = 3.0  # how much slower than on KVM a guest may boot
_MORE_GRACE = 30.0  # seconds at most, for the same reason
_BOOTS_PER_CPU = 4  # at once, on KVM; each has a processor to itself under emulation
_SSH_PORT = 22
_CONSOLE_SECONDS = 1.0  # between two looks at a console that only the daemon can read
_WAKE_SECONDS = 20.0  # on a fast machine


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
        self._blueprints = Blueprints(plan, self.names, self.networks, acceleration.kind)
        self._storage: Storage | None = None
        self._shelf: Shelf | None = None
        self._machine = self._made_by = ""
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
            host, self._made_by = await self.connection.call(_describe, self.connection.raw)
        self._machine = f"{host}:{self._storage.directory}"
        cache = images.cache_directory()
        self._shelf = Shelf(self.connection, self._storage, cache, self._machine)
        check_memory(self._plan, memory_mb)
        emulated = self._is_emulated
        self._boots = asyncio.Semaphore(max(2, cpus if emulated else cpus * _BOOTS_PER_CPU))
        made = [node for node in self._plan.nodes if node.spec.existing is None]
        if made:
            await self.networks.create_management(
                nat=any(way_out(self._plan, node) for node in made)
            )
            await self._require_way()

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

    async def create(self, node: LibvirtNode) -> None:
        """Make a guest and wait until it is ready: from a kept state, or else by its first boot."""
        plan, storage = node.plan, self._stored()
        reference, boot = direct_boot.split(plan.image)
        cache = images.cache_directory()
        image = await images.fetch(
            reference,
            directory=self._plan.directory,
            cache=cache,
            progress=self._plan.progress,
        )
        size = images.check_size(image, plan.spec.disk_gb, node=plan.name)
        locks, progress = cache / "locks", self._plan.progress
        base = await storage.base(image, locks, progress)
        kernel = None
        if boot is not None:
            kernel = await direct_boot.provide(boot, storage, self._plan.directory, locks, progress)
        node.spec = self._blueprints.domain(plan, kernel)
        key = key_of(
            node.spec,
            self._blueprints.documents(plan),
            image=image.sha256,
            disk=size,
            made_by=self._made_by,
            machine=self._machine,
        )
        if self._plan.prepared and await self._goes_on(node, key):
            return
        await storage.overlay(self.names.volume(plan.name, "disk"), base, size, plan.name)
        await self._boots_first(node, key)

    async def _boots_first(self, node: LibvirtNode, key: str) -> None:
        """Let a guest boot for the first time from its disk, and keep the state in which it is ready."""
        name, keys = node.plan.name, self.keys
        documents = self._blueprints.documents(
            node.plan, login=keys.public, host_key=keys.host_key(name)
        )
        seed = seed_image(documents)
        await self._give_files(node, seed, b"")
        ready = await self.start(node)
        if self._plan.prepared and not ready.warnings:
            await self._keep(node, key, seed)

    async def _give_files(self, node: LibvirtNode, seed: bytes, console: bytes) -> None:
        """Make the files that a guest has beside its disk, which is there."""
        assert node.spec is not None  # noqa: S101  it was drawn
        name, storage, volume = node.plan.name, self._stored(), self.names.volume
        disk = f"{storage.directory}/{volume(name, 'disk')}"
        seed_path = await storage.write(volume(name, "seed"), seed, name, "seed")
        node.console_path = await storage.write(volume(name, "console"), console, name, "console")
        node.console = self._console(node.console_path)
        node.spec = replace(
            node.spec,
            disks=(Disk(disk, "qcow2"), Disk(seed_path, "raw", read_only=True)),
            console=node.console_path,
        )

    async def _goes_on(self, node: LibvirtNode, key: str) -> bool:
        """Let a guest go on from a kept state; return whether there was one that is of use."""
        name = node.plan.name
        try:
            with told(f"the kept state of node {name!r} cannot be used", "wake", name):
                prepared = await self._shelved().take(key, self.names.volume(name, "disk"))
            if prepared is None:
                return False
            await self._wake(node, prepared)
        except (LabError, NodeDied) as error:
            self._tell(f"{name}: does not go on from its prepared state, boots anew: {error.brief}")
            await self.end(node)
            node.lost(error)
            self.keys.make_anew(name)
            with told("a prepared state that is of no use cannot be removed", "wake", name):
                await self._shelved().forget(key)
            await self.delete(node)
            return False
        return True

    async def _wake(self, node: LibvirtNode, prepared: Prepared) -> None:
        assert node.spec is not None  # noqa: S101  it was drawn
        begun = time.monotonic()
        self._tell(f"{node.plan.name}: goes on from its prepared state")
        self.keys.take_over(node.plan.name, prepared.keys)
        await self._give_files(node, prepared.seed, prepared.console)
        async with self._boots:
            await self._launch(node, replace(node.spec, snapshot=SNAPSHOT))
            await until_awake(self._guest(node), _WAKE_SECONDS * self._scale)
        node.is_set_up = True
        self._tell(f"{node.plan.name}: is ready after {time.monotonic() - begun:.1f} s")

    async def _keep(self, node: LibvirtNode, key: str, seed: bytes) -> None:
        """Keep the state of a guest that has just become ready; that this fails does not matter to it."""
        name = node.plan.name
        transport, node.transport = node.transport, None
        assert transport is not None  # noqa: S101  it let us in
        await transport.aclose()
        await until_quiet(self._guest(node, transport))
        console = await self._stored().read(node.console_path)
        prepared = Prepared(seed, self.keys.of(name), console)
        node.stands_still_for_us = True
        try:
            await self._shelved().keep(key, prepared, node.domain, self.names.volume(name, "disk"))
        except (libvirt.libvirtError, OSError, TooLarge) as error:
            self._tell(f"{name}: its state is not kept for the next time: {error}")
        node.transport = self._transport(node)

    async def start(self, node: LibvirtNode) -> Ready:
        """Start a guest and wait until it is ready.

        Raises:
            NodeDied: it ended, or its kernel panicked.
            LabError: the daemon does not start it, or it does not become ready.
        """
        assert node.spec is not None  # noqa: S101  it was created
        async with self._boots:
            await self._launch(node, node.spec)
            ready = await until_ready(
                self._guest(node),
                deadlines=Deadlines().scaled(self._scale),
                progress=self._plan.progress,
            )
        node.is_set_up = True
        return ready

    async def _launch(self, node: LibvirtNode, spec: DomainSpec) -> None:
        if node.console is not None:
            await self.connection.call(node.console.skip)
        xml = domain_xml(spec, node.begins())
        try:
            await self.connection.call(
                self.connection.raw.createXML, xml, libvirt.VIR_DOMAIN_START_AUTODESTROY
            )
        except libvirt.libvirtError as error:
            name = node.plan.name
            node.status = NodeStatus.STOPPED
            raise explain(error, f"node {name!r} could not be started", "start", name) from error
        node.transport = self._transport(node)

    async def end(self, node: LibvirtNode) -> None:
        """End a domain of ours, if it runs; return when nothing of it is there.

        Raises:
            LabError: that is not possible.
        """
        assert node.is_ours  # noqa: S101  no other one is ever ended
        node.status = NodeStatus.STOPPED if node.is_alive else node.status
        name = node.plan.name
        with told(f"node {name!r} could not be ended", "kill", name):
            await self.connection.call(self._destroy, node.domain)
        node.ended.set()

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
        with told("what is left of the lab could not be removed", "close"):
            await self.connection.call(self._destroy_domains)
            if self._storage is not None:
                await self._storage.delete_all(self.names.volumes)
        await self.networks.delete_all()

    async def log(self, node: LibvirtNode) -> str:
        """Return what a guest has written to its serial console."""
        if node.console is not None:
            return await self.connection.call(node.console.text)
        return ""

    def patience(self, grace: float) -> float:
        """Return how long a guest may take to stop: longer where it is emulated, else it loses files."""
        return min(grace * _EMULATION, grace + _MORE_GRACE) if self._is_emulated else grace

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

    def _console(self, path: str) -> Console:
        if self.connection.is_local and os.access(path, os.R_OK):
            return Console(Path(path))
        return Console(partial(self._stored().piece, path), _CONSOLE_SECONDS)

    async def _require_way(self) -> None:
        """Return when the guests could be reached from here: it would be a pity to boot them first."""
        if (way := self.connection.way) is not None:
            try:
                await way.require_forwarding(str(self.networks.management_host), _SSH_PORT)
            except LoginFailed as failed:
                raise LabError(failed.reason, step="ssh", resolution=failed.resolution) from failed

    def _transport(self, node: LibvirtNode) -> SshTransport:
        name = node.plan.name
        login = Login(
            str(self.networks.management[name].ip),
            _SSH_PORT,
            user="root",
            key=self.keys.login_file(name),
            host_keys=HostKeys(pinned=self.keys.of(name).host.encode()),
            timeout_scale=self._scale,
            through=self.connection.way,
        )
        return SshTransport(name, login, env=node.plan.env, fate=node.fate)

    def _guest(self, node: LibvirtNode, transport: SshTransport | None = None) -> Guest:
        transport = transport or node.transport
        assert transport is not None  # noqa: S101  it was started
        return Guest(
            node.plan.name,
            str(self.networks.management[node.plan.name].ip),
            _SSH_PORT,
            transport,
            node.death,
            node.console,
            tuple(one.address.ip for one in node.plan.interfaces),
            needs_cloud_init=node.plan.spec.cloud_init is not None and not node.is_set_up,
            through=self.connection.way,
        )

    @property
    def _scale(self) -> float:
        return self._plan.timeout_scale * (_EMULATION if self._is_emulated else 1)

    @property
    def _is_emulated(self) -> bool:
        return self._acceleration.kind == "qemu"

    def _destroy_domains(self) -> None:
        for node in self.names.nodes:
            self._destroy(self.names.domain(node))

    def _destroy(self, domain: str) -> None:
        try:
            self.connection.raw.lookupByName(domain).destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in ENDED:
                raise

    def _tell(self, line: str) -> None:
        if self._plan.progress is not None:
            self._plan.progress(line)

    def _shelved(self) -> Shelf:
        assert self._shelf is not None  # noqa: S101  the lab is open
        return self._shelf

    def _stored(self) -> Storage:
        if self._storage is None:
            raise LabError("the lab is not open", step="open")
        return self._storage


def _describe(raw: Any) -> tuple[str, str]:
    """Return the name of the daemon's machine, and what decides how guests are made there."""
    return (
        raw.getHostname(),
        f"{version('pytest-benchscale')} {raw.getLibVersion()} {raw.getVersion()}",
    )
