"""The guests of one lab: made of an image and a seed, started, waited for, led back, and removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import libvirt

from pytest_benchscale.backends.base import LabPlan, NodeStatus
from pytest_benchscale.backends.libvirt import direct_boot, images, keeping, snapshots
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.blueprint import Blueprints
from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, domain_xml
from pytest_benchscale.backends.libvirt.failures import ENDED, explain, told
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.naming import Names
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.prepared import SNAPSHOT, Prepared, TooLarge, key_of
from pytest_benchscale.backends.libvirt.readiness import Deadlines, Ready, until_ready
from pytest_benchscale.backends.libvirt.seed import seed_image
from pytest_benchscale.backends.libvirt.site import Site
from pytest_benchscale.backends.libvirt.waking import until_awake, until_quiet
from pytest_benchscale.backends.libvirt.ways import Ways
from pytest_benchscale.errors import LabError, NodeDied

__all__ = ["Guests"]

_PROCEDURE = (
    2  # one more whenever guests are made ready otherwise: what was kept before is of no use then
)
_EMULATION = 3.0  # how much slower than on KVM a guest may boot
_MORE_GRACE = 30.0  # seconds at most, for the same reason
_BOOTS_PER_CPU = 4  # at once, on KVM; each has a processor to itself under emulation
_WAKE_SECONDS = 20.0  # on a fast machine


class Guests:
    """Those that a lab has made at a daemon; with `outlive_us` they do not end with our connection."""

    def __init__(
        self,
        site: Site,
        plan: LabPlan,
        names: Names,
        *,
        networks: Networks,
        keys: LabKeys,
        acceleration: Acceleration,
        outlive_us: bool,
    ) -> None:
        self.names = names
        self._site = site
        self._connection = site.connection
        self._plan = plan
        self._networks = networks
        self._keys = keys
        self._is_emulated = acceleration.kind == "qemu"
        slower = _EMULATION if self._is_emulated else 1
        self._ways = Ways(site, plan, networks, keys, plan.timeout_scale * slower)
        self._blueprints = Blueprints(plan, names, networks, acceleration.kind)
        self._start_flags = 0 if outlive_us else libvirt.VIR_DOMAIN_START_AUTODESTROY
        at_once = site.cpus if self._is_emulated else site.cpus * _BOOTS_PER_CPU
        self._boots = asyncio.Semaphore(max(2, at_once))

    async def create(self, node: LibvirtNode) -> None:
        """Make a guest and wait until it is ready: from a kept state, or else by its first boot."""
        plan, storage = node.plan, self._site.storage
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
            made_by=self._site.made_by,
            machine=self._site.machine,
            procedure=_PROCEDURE,
        )
        if self._plan.prepared and await self._goes_on(node, key):
            return
        await storage.overlay(self.names.volume(plan.name, "disk"), base, size, plan.name)
        await self._boots_first(node, key)

    async def _boots_first(self, node: LibvirtNode, key: str) -> None:
        """Let a guest boot for the first time from its disk, and keep the state in which it is ready."""
        name, keys = node.plan.name, self._keys
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
        name, storage, volume = node.plan.name, self._site.storage, self.names.volume
        disk = f"{storage.directory}/{volume(name, 'disk')}"
        seed_path = await storage.write(volume(name, "seed"), seed, name, "seed")
        node.console_path = await storage.write(volume(name, "console"), console, name, "console")
        node.console = self._ways.console(node.console_path)
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
                prepared = await self._site.shelf.take(key, self.names.volume(name, "disk"))
            if prepared is None:
                return False
            await self._wake(node, prepared)
        except (LabError, NodeDied) as error:
            self._tell(f"{name}: does not go on from its prepared state, boots anew: {error.brief}")
            await self.end(node)
            node.lost(error)
            self._keys.make_anew(name)
            with told("a prepared state that is of no use cannot be removed", "wake", name):
                await self._site.shelf.forget(key)
            await self.delete(node)
            return False
        return True

    async def _wake(self, node: LibvirtNode, prepared: Prepared) -> None:
        assert node.spec is not None  # noqa: S101  it was drawn
        begun = time.monotonic()
        self._tell(f"{node.plan.name}: goes on from its prepared state")
        self._keys.take_over(node.plan.name, prepared.keys)
        await self._give_files(node, prepared.seed, prepared.console)
        async with self._boots:
            await self._go_on(node, SNAPSHOT)
        node.is_set_up = True
        self._tell(f"{node.plan.name}: is ready after {time.monotonic() - begun:.1f} s")

    async def _keep(self, node: LibvirtNode, key: str, seed: bytes) -> None:
        """Keep the state of a guest that has just become ready; that this fails does not matter to it."""
        name = node.plan.name
        async with self._standing_still(node):
            console = await self._site.storage.read(node.console_path)
            prepared = Prepared(seed, self._keys.of(name), console)
            disk = self.names.volume(name, "disk")
            try:
                await self._site.shelf.keep(key, prepared, node.domain, disk)
            except (libvirt.libvirtError, OSError, TooLarge) as error:
                self._tell(f"{name}: its state is not kept for the next time: {error}")

    @asynccontextmanager
    async def _standing_still(self, node: LibvirtNode) -> AsyncIterator[None]:
        """Have no connection to a guest that is stopped for a moment: it would not know it afterwards."""
        # It is not there when somebody has let go of it before.
        transport = node.transport or self._ways.transport(node)
        node.transport = None
        try:
            await transport.aclose()
            await until_quiet(self._ways.guest(node, transport))
            node.stands_still_for_us = True
            yield
        finally:
            if node.is_alive:
                node.transport = self._ways.transport(node)

    async def checkpoint(self, node: LibvirtNode) -> None:
        """Remember the state of a running guest, its memory included, in its own disk.

        Raises:
            LabError: that is not possible, such as when it does not run.
        """
        await self._remember(node, snapshots.CHECKPOINT)
        node.has_checkpoint = True

    async def _remember(self, node: LibvirtNode, snapshot: str) -> None:
        name, raw = node.plan.name, self._connection.raw
        if node.status is not NodeStatus.RUNNING:
            raise LabError(
                f"node {name!r} is {node.status}: only the state of a running one can be remembered",
                node=name,
                step="checkpoint",
            )
        async with self._standing_still(node):
            with told(f"the state of node {name!r} cannot be remembered", "checkpoint", name):
                await self._connection.call(snapshots.take, raw, node.domain, snapshot)

    async def reset(self, node: LibvirtNode) -> None:
        """Lead a guest back to its checkpoint, and wait until it knows of that.

        Raises:
            LabError: it has none, or does not come back.
            NodeDied: it ended.
        """
        name = node.plan.name
        if not node.has_checkpoint:
            raise LabError(f"node {name!r} has no checkpoint", node=name, step="reset")
        async with self._boots:
            if await self._revert(node):
                await until_awake(
                    self._ways.guest(node), _WAKE_SECONDS * self._ways.scale, is_there=True
                )
            else:
                await self.end(node)
                await self._go_on(node, snapshots.CHECKPOINT)

    async def _go_on(self, node: LibvirtNode, snapshot: str) -> None:
        """Start a guest from a snapshot in its disk."""
        assert node.spec is not None  # noqa: S101  it was drawn
        await self._launch(node, replace(node.spec, snapshot=snapshot))
        await until_awake(self._ways.guest(node), _WAKE_SECONDS * self._ways.scale)

    async def _revert(self, node: LibvirtNode) -> bool:
        """Lead a guest back in the QEMU that it runs in; return whether it runs in one that can."""
        if not node.is_alive:
            return False
        transport, node.transport = node.transport, None
        if transport is not None:
            await transport.aclose()
        node.stands_still_for_us = True
        try:
            await self._connection.call(snapshots.revert, self._connection.raw, node.domain)
        except (libvirt.libvirtError, snapshots.RevertError) as error:
            self._tell(f"{node.plan.name}: is started anew from its checkpoint: {error}")
            return False
        if node.ended.is_set():  # at this moment
            return False
        node.status = NodeStatus.RUNNING
        node.transport = self._ways.transport(node)
        return True

    async def let_go(self, nodes: Sequence[LibvirtNode]) -> dict[str, Any]:
        """Leave guests to themselves; return what `take_over` needs of each, as JSON has it.

        Those that would end with our connection go on in other domains first, which takes a while.

        Raises:
            LabError, NodeDied: that is not possible.
        """
        self._start_flags = 0
        bound = [node for node in nodes if node.is_alive and not node.outlives_us]
        done = await asyncio.gather(*map(self._untie, bound), return_exceptions=True)
        for failure in done:
            if failure is not None:
                raise failure
        for node in nodes:
            transport, node.transport = node.transport, None
            if transport is not None:
                await transport.aclose()
        return {node.plan.name: keeping.noted(node, self._keys) for node in nodes}

    async def _untie(self, node: LibvirtNode) -> None:
        """Let a guest go on in another domain: libvirt cannot change with what the one that it has ends."""
        async with self._boots:
            await self._remember(node, snapshots.KEPT)
            await self.end(node)
            await self._go_on(node, snapshots.KEPT)

    async def take_over(self, node: LibvirtNode, state: Mapping[str, Any]) -> None:
        """Use a guest that another process has kept.

        Raises:
            LabError: it is not as it was left.
        """
        name = node.plan.name
        keeping.restore(node, state, self._keys)
        node.outlives_us = True
        node.console = self._ways.console(node.console_path)
        with told(f"node {name!r} cannot be looked up", "adopt", name):
            if state["run"]:
                status = await self._connection.call(
                    keeping.state_of, self._connection.raw, node, state["run"], self.names
                )
                node.adopt(state["run"], status)
                node.transport = self._ways.transport(node)
            else:
                node.status = NodeStatus(state["status"])
                node.ended.set()

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
                self._ways.guest(node),
                deadlines=Deadlines().scaled(self._ways.scale),
                progress=self._plan.progress,
            )
        node.is_set_up = True
        return ready

    async def _launch(self, node: LibvirtNode, spec: DomainSpec) -> None:
        if node.console is not None:
            await self._connection.call(node.console.skip)
        xml = domain_xml(spec, node.begins())
        try:
            await self._connection.call(self._connection.raw.createXML, xml, self._start_flags)
        except libvirt.libvirtError as error:
            name = node.plan.name
            node.status = NodeStatus.STOPPED
            raise explain(error, f"node {name!r} could not be started", "start", name) from error
        node.outlives_us = not self._start_flags
        node.transport = self._ways.transport(node)

    async def end(self, node: LibvirtNode) -> None:
        """End a domain of ours, if it runs; return when nothing of it is there.

        Raises:
            LabError: that is not possible.
        """
        assert node.is_ours  # noqa: S101  no other one is ever ended
        node.status = NodeStatus.STOPPED if node.is_alive else node.status
        name = node.plan.name
        with told(f"node {name!r} could not be ended", "kill", name):
            await self._connection.call(self._destroy, node.domain)
        node.ended.set()

    async def delete(self, node: LibvirtNode) -> None:
        """Remove the files of a guest that has ended."""
        name = node.plan.name
        with told(f"the disks of node {name!r} could not be removed", "delete", name):
            for kind in ("disk", "seed", "console"):
                await self._site.storage.delete(self.names.volume(name, kind))

    def destroy_all(self) -> None:
        """End the domains of all nodes, whether or not we know that they are there; in a thread."""
        for node in self.names.nodes:
            self._destroy(self.names.domain(node))

    async def log(self, node: LibvirtNode) -> str:
        """Return what a guest has written to its serial console."""
        if node.console is not None:
            return await self._connection.call(node.console.text)
        return ""

    def patience(self, grace: float) -> float:
        """Return how long a guest may take to stop: longer where it is emulated, else it loses files."""
        return min(grace * _EMULATION, grace + _MORE_GRACE) if self._is_emulated else grace

    # --- parts ---

    def _destroy(self, domain: str) -> None:
        try:
            self._connection.raw.lookupByName(domain).destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in ENDED:
                raise

    def _tell(self, line: str) -> None:
        if self._plan.progress is not None:
            self._plan.progress(line)
