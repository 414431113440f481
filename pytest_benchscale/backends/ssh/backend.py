"""Nodes as machines that are there already: used by their sshd, not created or ended, and left as they were.

Networks are not made either: those in a topology describe what there is. A node's address there is the
declared one, and that of the machine where none is.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import asyncssh

from pytest_benchscale.backends.base import (
    Capability,
    InterfacePlan,
    LabPlan,
    NetworkInfo,
    NetworkPlan,
    NodeInfo,
    NodePlan,
    NodeStatus,
    OwnedThing,
)
from pytest_benchscale.backends.program_echoes import ProgramEchoes, Programs
from pytest_benchscale.backends.ssh.conduit import MachineConduit
from pytest_benchscale.backends.ssh.devices import devices, interfaces
from pytest_benchscale.backends.ssh.links import MachineLinks
from pytest_benchscale.backends.ssh.lock import MachineLock
from pytest_benchscale.errors import BenchscaleError, LabError, NotSupported
from pytest_benchscale.network import render
from pytest_benchscale.network.echo import Echoes
from pytest_benchscale.network.link import Link
from pytest_benchscale.topology.addressing import IpAddress, IpNetwork
from pytest_benchscale.topology.model import NodeSpec, Topology
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.streams import Stream
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.connections import Connections
from pytest_benchscale.transports.ssh.login import HostKeys, Login, LoginFailed, explain
from pytest_benchscale.transports.ssh.users import switched

__all__ = ["SshBackend", "login_of"]

_ANY_KEY = "none"  # under `known_hosts:`
_KEYS_OF_A_NEW_MACHINE = ("cloud_init", "image", "memory_mb", "vcpus", "disk_gb")


@dataclass(slots=True)
class _Machine:
    plan: NodePlan
    transport: SshTransport
    lock: MachineLock
    addresses: Mapping[str, IpAddress]  # by network
    devices: Mapping[IpAddress, str]  # its own, as far as it tells
    links: MachineLinks


class SshBackend:
    """Nodes as existing machines."""

    name: ClassVar[str] = "ssh"
    links_outlive_nodes: ClassVar[bool] = False
    outlives_us: ClassVar[bool] = False
    shares_addresses: ClassVar[bool] = False
    kill_loses_writes: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.EXISTING, Capability.USERS, Capability.CONDITIONS, Capability.PARTITIONS}
    )

    def __init__(self) -> None:
        self._programs: dict[str, Programs] = {}
        self._plan: LabPlan | None = None
        self._machines: dict[str, _Machine] = {}

    async def probe(self) -> str:
        """Return the version of the ssh client, which is part of this installation."""
        return f"asyncssh {asyncssh.__version__}"

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        """Return what the topology asks for that takes more than a machine that is there."""
        return [
            f"node {node.name!r}: {reason}"
            for node in topology.nodes
            for reason in _against(topology, node)
        ]

    async def notes(self, topology: Topology) -> Sequence[str]:
        """Return nothing: what is declared is done."""
        return ()

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return none: no network is made."""
        return ()

    async def open(self, plan: LabPlan) -> None:
        """Remember what the lab is."""
        self._plan = plan

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Take a network as it is declared."""
        return NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet)

    async def delete_network(self, name: str) -> None:
        """Leave it alone."""

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        """Log in to a machine, and keep other labs from using it."""
        lab = self._opened()
        login = login_of(plan.spec, lab.directory, lab.timeout_scale)
        address = await _address(plan, login)
        lock = MachineLock(lab, plan.name)
        transport = SshTransport(
            plan.name, login, env=plan.env, fate=self._unknown, greet=lock.take
        )
        addresses = {one.name: one.address or address for one in plan.spec.networks}
        links = MachineLinks(transport, lab.timeout_scale)
        machine = _Machine(plan, transport, lock, addresses, {}, links)
        self._machines[plan.name] = machine
        machine.devices = await devices(transport)
        if not lock.is_possible and lab.progress is not None:
            lab.progress(f"node {plan.name!r}: no flock there, so other runs may use it, too")
        return _info(machine)

    async def start_node(self, name: str) -> NodeInfo:
        """Refuse: who has a machine decides when it runs."""
        self._refuse(Capability.STOP)

    async def stop_node(self, name: str, grace: float) -> None:
        """Refuse."""
        self._refuse(Capability.STOP)

    async def kill_node(self, name: str) -> None:
        """Refuse."""
        self._refuse(Capability.STOP)

    async def pause_node(self, name: str) -> None:
        """Refuse."""
        self._refuse(Capability.PAUSE)

    async def resume_node(self, name: str) -> None:
        """Refuse."""
        self._refuse(Capability.PAUSE)

    async def delete_node(self, name: str) -> None:
        """Log out and unlock; the machine is left as it was."""
        machine = self._machines.pop(name, None)
        if machine is not None:
            try:
                await machine.links.aclose()
            finally:
                machine.lock.release()
                await machine.transport.aclose()

    async def get_node(self, name: str) -> NodeInfo:
        """Return what is known of a machine."""
        return _info(self._machine(name))

    async def list_nodes(self) -> Sequence[NodeInfo]:
        """Return what is known of every machine."""
        return [_info(machine) for machine in self._machines.values()]

    def transport(self, name: str) -> SshTransport:
        """Return the way into a machine."""
        return self._machine(name).transport

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        """Return nothing: what a machine said elsewhere is not seen from here."""
        if timestamps:
            self._refuse(Capability.LOG_TIMES)
        self._machine(name)
        return ""

    async def has_netem(self) -> bool:
        """Return whether all machines can; before they are nodes, those for which the file asks for it.

        Raises:
            LabError: a machine cannot be asked.
        """
        lab = self._opened()
        if self._machines:
            asked = [machine.links.has_netem() for machine in self._machines.values()]
        else:
            plans = [plan for plan in lab.nodes if any(map(_needs_netem, plan.interfaces))]
            asked = [_has_netem(plan, lab) for plan in plans]
        return all(await asyncio.gather(*asked))

    async def links(self, name: str) -> Mapping[str, Link]:
        """Return the machine's own devices on the networks; none where it is on no network."""
        machine = self._machine(name)
        return await machine.links.on(machine.addresses, machine.devices)

    async def echoes(self, name: str) -> Echoes | None:
        """Have a program measure from within."""
        return ProgramEchoes(Programs.of(self._programs, name, self.transport(name)))

    def place(self) -> Mapping[str, str]:
        """Return what leads another process to the same daemon."""
        return {}

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        """Return what changes when an image does."""
        return {}

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        """Leave the lab to itself."""
        raise NotSupported(self.name, Capability.KEEP)

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        """Take over a lab that was kept."""
        raise NotSupported(self.name, Capability.KEEP)

    async def checkpoint(self, name: str) -> None:
        """Remember how a node is now."""
        raise NotSupported(self.name, Capability.RESET)

    async def reset_node(self, name: str) -> NodeInfo:
        """Lead a node back to its checkpoint."""
        raise NotSupported(self.name, Capability.RESET)

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """Remove what a lab has left."""

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Return nothing: nothing is created."""
        return ()

    async def close(self) -> None:
        """Log out everywhere."""
        for name in list(self._machines):
            await self.delete_node(name)
        self._plan = None

    async def _unknown(self) -> BenchscaleError | None:
        return None

    def _opened(self) -> LabPlan:
        if self._plan is None:
            raise LabError("the lab is not open")
        return self._plan

    def _machine(self, name: str) -> _Machine:
        try:
            return self._machines[name]
        except KeyError:
            raise LabError(f"there is no node {name!r} in this lab", node=name) from None

    def _refuse(self, capability: Capability) -> NoReturn:
        raise NotSupported(self.name, capability)


def login_of(spec: NodeSpec, directory: Path, timeout_scale: float = 1.0) -> Login:
    """Return how to log in to the machine of a node; it has an `address`.

    Paths are relative to `directory`.
    """
    login = Login(str(spec.address), timeout_scale=timeout_scale)
    if (ssh := spec.ssh) is None:
        return login
    known = ssh.known_hosts
    return replace(
        login,
        port=ssh.port,
        user=ssh.user,
        password=ssh.password,
        key=directory / Path(ssh.key).expanduser() if ssh.key else None,
        host_keys=HostKeys(
            path=directory / Path(known).expanduser() if known and known != _ANY_KEY else None,
            unchecked=known == _ANY_KEY,
        ),
    )


def _needs_netem(interface: InterfacePlan) -> bool:
    return interface.conditions is not None and render.needs_netem(interface.conditions)


async def _has_netem(plan: NodePlan, lab: LabPlan) -> bool:
    """Ask a machine that is no node yet."""
    login = login_of(plan.spec, lab.directory, lab.timeout_scale)
    connections = Connections(plan.name, login)

    async def start(command: Command) -> Stream:
        try:
            return await connections.open_stream(switched(command))
        except LoginFailed as failed:
            raise failed.as_error(plan.name) from failed

    conduit = MachineConduit(f"node {plan.name!r}", start, node=plan.name)
    try:
        return await conduit.has_netem()
    finally:
        await conduit.aclose()
        connections.abort()


def _info(machine: _Machine) -> NodeInfo:
    return NodeInfo(
        name=machine.plan.name,
        status=NodeStatus.RUNNING,
        addresses=machine.addresses,
        interfaces=interfaces(machine.addresses, machine.devices),
    )


async def _address(plan: NodePlan, login: Login) -> IpAddress:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(login.host, login.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise explain(login, error).as_error(plan.name, "address") from error
    return ip_address(str(found[0][4][0]).partition("%")[0])


def _against(topology: Topology, node: NodeSpec) -> list[str]:
    reasons = [
        f"{key} is for a machine that is made, and this one is there"
        for key in _KEYS_OF_A_NEW_MACHINE
        if getattr(node, key) is not None
    ]
    if node.address is None:
        reasons.append("it needs the machine's `address`")
    unknown = [one.name for one in node.networks if one.address is None]
    if len(unknown) > 1:
        reasons.append(
            f"its addresses on all but one of {', '.join(unknown)} must be declared: they are not made"
        )
    return reasons
