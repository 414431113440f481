"""Virtual machines that are there already: found by name, used through their sshd, and left as they were.

Nothing here changes a domain, except that one that is off is started where the file says so.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import anyio
import libvirt

from pytest_benchscale.backends.base import LabPlan, NodeInfo
from pytest_benchscale.backends.libvirt import whereabouts
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import GONE, explain, told
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.ssh.backend import login_of
from pytest_benchscale.backends.ssh.devices import devices, interfaces
from pytest_benchscale.backends.ssh.links import MachineLinks
from pytest_benchscale.backends.ssh.lock import MachineLock
from pytest_benchscale.errors import BenchscaleError, LabError, MachineMissing
from pytest_benchscale.network.link import Link
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.connections import connect
from pytest_benchscale.transports.ssh.login import DEFAULT_PORT, Login, LoginFailed

__all__ = ["ExistingMachine"]

_ADDRESS_SECONDS = 30.0  # of a machine that runs already
_BOOT_SECONDS = 300.0  # of one that we started
_ANSWER_SECONDS = 1.0
_POLL = 0.2


class ExistingMachine:
    """One such machine, from `use` to `release`."""

    def __init__(self, connection: Connection, lab: LabPlan, node: LibvirtNode) -> None:
        self._connection = connection
        # An address that the daemon tells is one on its machine, the file's is one from here.
        self._way = connection.way if node.plan.spec.address is None else None
        self._lab = lab
        self._node = node
        self._lock = MachineLock(lab, node.plan.name)
        self._address: IpAddress | None = None
        self._devices: Mapping[IpAddress, str] = {}
        self._links: MachineLinks | None = None

    async def use(self) -> None:
        """Find the machine, log in, and keep other labs from using it.

        Raises:
            MachineMissing: the daemon has none of that name.
            LabError: it is off or paused, has no address, or lets us not in.
        """
        node, scale = self._node, self._lab.timeout_scale
        domain = await self._find()
        started = await self._require_running(domain)
        node.adopt(domain.UUIDString())
        seconds = (_BOOT_SECONDS if started else _ADDRESS_SECONDS) * scale
        with anyio.move_on_after(seconds):
            try:
                self._address = await self._find_address(domain)
                await self._require_way(self._address)
            except LoginFailed as failed:
                raise self._no_way(failed) from failed
        if self._address is None:
            raise self._no_address(seconds)
        login = login_of(node.plan.spec, self._lab.directory, scale)
        await self._log_in(replace(login, host=str(self._address), through=self._way), seconds)

    def info(self) -> NodeInfo:
        """Return its state; on a network where no address is declared it has the one we reach it by."""
        plan, address = self._node.plan, self._address
        declared = {one.name: one.address for one in plan.spec.networks}
        addresses = {name: given or address for name, given in declared.items()}
        known = {name: given for name, given in addresses.items() if given is not None}
        there = interfaces(known, self._devices)
        return replace(self._node.info(), addresses=known, interfaces=there)

    async def links(self) -> Mapping[str, Link]:
        """Return its own devices on the networks; none where it is on no network.

        Raises:
            LabError: it does not tell its devices.
        """
        info = self.info()
        assert self._links is not None  # noqa: S101  it is in use
        return await self._links.on(info.addresses, self._devices)

    async def has_netem(self) -> bool:
        """Return whether its kernel can delay and lose packets."""
        assert self._links is not None  # noqa: S101  it is in use
        return await self._links.has_netem()

    async def release(self) -> None:
        """Let other labs use it, as it was."""
        links, self._links = self._links, None
        try:
            if links is not None:
                await links.aclose()
        finally:
            self._lock.release()

    # --- steps ---

    async def _find(self) -> Any:
        name = self._node.domain
        try:
            return await self._connection.call(self._connection.raw.lookupByName, name)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:
                raise explain(
                    error, f"machine {name!r} cannot be looked up", "existing", self._node.plan.name
                ) from error
        with told("the daemon's machines cannot be listed", "existing", self._node.plan.name):
            there = await self._connection.call(self._connection.raw.listAllDomains)
        names = sorted(domain.name() for domain in there)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        node = self._node.plan.name
        raise MachineMissing(
            f"node {node!r}: there is no machine {name!r} at {self._connection.uri}{hint}",
            node=node,
            step="existing",
            details=f"it has: {', '.join(names) or 'none'}",
            resolution="correct `existing`, or set LIBVIRT_DEFAULT_URI to where the machine is",
        )

    async def _require_running(self, domain: Any) -> bool:
        """Return whether we have started it."""
        name = self._node.domain
        with told(f"machine {name!r} does not tell its state", "existing", self._node.plan.name):
            state, _ = await self._connection.call(domain.state)
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            return False
        if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
            raise self._error(
                f"machine {name!r} is paused",
                None,
                f"let it go on: `virsh -c {self._connection.uri} resume {name}`",
            )
        if not self._node.plan.spec.start:
            raise self._error(
                f"machine {name!r} is off",
                None,
                f"start it, `virsh -c {self._connection.uri} start {name}`, or write `start: true`",
            )
        with told(f"machine {name!r} cannot be started", "existing", self._node.plan.name):
            await self._connection.call(domain.create)
        return True

    async def _find_address(self, domain: Any) -> IpAddress:
        """Return the address under which it answers, once it has one."""
        if (declared := self._node.plan.spec.address) is not None:
            return await _resolve(str(declared))
        while True:
            candidates = await self._connection.call(
                whereabouts.addresses, self._connection, domain
            )
            for candidate in candidates:
                if len(candidates) == 1 or await self._answers(candidate):
                    return candidate
            await asyncio.sleep(_POLL)

    async def _require_way(self, address: IpAddress) -> None:
        """Return when the daemon's machine lets us through; raises `LoginFailed`."""
        if self._way is not None:
            await self._way.connected()
            with anyio.move_on_after(_ANSWER_SECONDS):  # it tries, so it may
                await self._way.require_forwarding(str(address), self._port)

    @property
    def _port(self) -> int:
        spec = self._node.plan.spec
        return spec.ssh.port if spec.ssh else DEFAULT_PORT

    async def _answers(self, address: IpAddress) -> bool:
        if self._way is not None:
            await self._way.connected()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self._way is not None:
                    _, hang_up = await self._way.open(str(address), self._port)
                else:
                    _, writer = await asyncio.open_connection(str(address), self._port)
                    hang_up = writer.close
        except (OSError, TimeoutError):
            return False
        hang_up()
        return True

    async def _log_in(self, login: Login, seconds: float) -> None:
        """Log in and take the machine's lock; until the time is over, an sshd may not be there yet."""
        deadline = anyio.current_time() + seconds
        while True:
            try:
                (await connect(login)).abort()
            except LoginFailed as failed:
                if not failed.passing or anyio.current_time() > deadline:
                    raise failed.as_error(self._node.plan.name) from failed
            else:
                break
            await asyncio.sleep(_POLL)
        plan, fate = self._node.plan, self._node.fate
        transport = SshTransport(plan.name, login, env=plan.env, fate=fate, greet=self._lock.take)
        self._node.transport = transport
        self._links = MachineLinks(transport, self._lab.timeout_scale)
        self._devices = await devices(transport)

    def _no_way(self, failed: LoginFailed) -> LabError:
        return self._error(
            failed.reason,
            None,
            f"{failed.resolution}; or give the address under which it is reached from here: "
            "`address: 192.0.2.7`",
        )

    def _no_address(self, seconds: float) -> LabError:
        return self._error(
            f"no address of machine {self._node.domain!r} could be found within {seconds:g} s",
            "neither a lease or reservation of libvirt's networks, nor a guest agent, nor the ARP table "
            "of the daemon's machine tells one",
            "give it: `address: 192.0.2.7`; or install qemu-guest-agent in it",
        )

    def _error(self, brief: str, details: str | None, resolution: str) -> LabError:
        name = self._node.plan.name
        return LabError(
            f"node {name!r}: {brief}",
            node=name,
            step="existing",
            details=details,
            resolution=resolution,
        )


async def _resolve(host: str) -> IpAddress:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        raise BenchscaleError(
            f"there is no machine of the name {host!r}: {error}", resolution="correct `address`"
        ) from error
    return ip_address(str(found[0][4][0]).partition("%")[0])
