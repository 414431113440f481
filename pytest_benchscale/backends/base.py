"""The contract that every backend fulfils, ours and a third party's, and the data it works on.

A backend is told what to build by plans, plain data that the lab has worked out of the topology:
every address, device name, MAC and route is decided before the first thing is created. It answers
with infos, what there really is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pytest_benchscale.network.echo import Echoes
from pytest_benchscale.network.link import Link
from pytest_benchscale.topology.addressing import IpAddress, IpInterface, IpNetwork
from pytest_benchscale.topology.model import Conditions, Network, NodeSpec, Topology
from pytest_benchscale.transports.base import Transport

__all__ = [
    "Backend",
    "Capability",
    "InterfacePlan",
    "LabPlan",
    "NetworkInfo",
    "NetworkPlan",
    "NodeInfo",
    "NodePlan",
    "NodeStatus",
    "OwnedThing",
    "Progress",
    "Route",
]


Progress = Callable[[str], None]
"""Called with a line about how far long work has come, in the event loop of who asked for the work."""


class Capability(StrEnum):
    """What not every backend can do. A backend declares what it has; the rest raises `NotSupported`."""

    PAUSE = "pause and resume"
    STOP = "stop and start"
    CONDITIONS = "network conditions"
    PARTITIONS = "partitions"
    MEMORY_LIMIT = "memory limits"
    CPU_LIMIT = "CPU limits"
    DISK_SIZE = "disk sizes"
    INTERNET = "networks with internet access"
    CLOUD_INIT = "cloud-init"
    EXISTING = "existing machines"
    PUBLISHED_PORTS = "published ports"
    VOLUMES = "volumes"
    MAIN_COMMAND = "a main command"
    USERS = "commands as another user"
    PLATFORM = "a choice of platform"
    LOG_TIMES = "the times of log lines"
    FULL_DISK = "full disks"
    CLOCK = "clocks of its nodes' own"
    KEEP = "keeping a lab after the session"
    RESET = "resetting nodes"


class NodeStatus(StrEnum):
    """The state of a node."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  # because somebody asked for it
    DEAD = "dead"  # by itself


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A network to create.."""

    name: str
    subnet: IpNetwork
    gateway: IpAddress | None
    internet: bool
    spec: Network


@dataclass(frozen=True, slots=True)
class InterfacePlan:
    """One attachment of a node: the device is named `eth0`, `eth1`, ... in the order of the file."""

    network: str
    device: str
    mac: str
    address: IpInterface
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route of a node; `destination` 0.0.0.0/0 or ::/0 is the default route."""

    destination: IpNetwork
    via: IpAddress


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to create.

    `image` is the backend's own reference (never a catalogue name). `hosts` maps the name of every
    node of the lab to the addresses by which this node reaches it. `forwards` says that the node is
    a network's gateway, so the kernel must forward its packets.
    """

    name: str
    hostname: str
    image: str
    interfaces: tuple[InterfacePlan, ...]
    routes: tuple[Route, ...]
    hosts: Mapping[str, tuple[IpAddress, ...]]
    forwards: bool
    env: Mapping[str, str]
    spec: NodeSpec


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab: what `open` is told. `directory` is where relative paths of the file start.

    `progress` is told of work that takes long, such as the download of an image. `images` are the user's
    own mappings of image names; those of the nodes are resolved already. With `prepared`, a node
    may go on from the state in which an earlier one like it became ready. `files` is a directory for
    files of the lab's own, private to the user, which goes when the lab does; None where nothing of
    the lab outlives our processes. With `may_keep`, somebody may want it to be kept; a `guest` only visits
    a kept lab.
    """

    lab_id: str
    name: str
    directory: Path
    networks: tuple[NetworkPlan, ...]
    nodes: tuple[NodePlan, ...]
    timeout_scale: float = 1.0
    prepared: bool = True
    images: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    progress: Progress | None = field(default=None, compare=False)
    files: Path | None = None
    guest: bool = False
    may_keep: bool = False


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network that exists. `bridge` names the Linux bridge where there is one."""

    name: str
    subnet: IpNetwork
    gateway: IpAddress | None
    internet: bool
    bridge: str | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that exists. Addresses and interfaces go by network name.

    `ports` has the published ones: the node's own, such as "80/tcp", and that of the machine where
    the node runs.
    """

    name: str
    status: NodeStatus
    addresses: Mapping[str, IpAddress]
    interfaces: Mapping[str, str]
    reason: str | None = None  # why it is dead, where known
    ports: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: NodePlan, status: NodeStatus, why: str) -> NodeInfo:
        """Return the state of a node that is as it was planned; `why` is told of a dead one."""
        return cls(
            name=plan.name,
            status=status,
            addresses={one.network: one.address.ip for one in plan.interfaces},
            interfaces={one.network: one.device for one in plan.interfaces},
            reason=why if status is NodeStatus.DEAD else None,
        )


@dataclass(frozen=True, slots=True)
class OwnedThing:
    """Something outside our process tree that a lab owns: for garbage collection.

    `owner` is the run of its label, empty where the backend does not tell.
    """

    kind: str
    identifier: str
    lab_id: str
    owner: str = ""


class Backend(Protocol):
    """One instance serves one lab, from `open` to `close`; `probe` and `can_run` work before `open`.

    Every method may be cancelled, except that the delete methods and `close` run shielded with a
    deadline of the lab's.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    links_outlive_nodes: ClassVar[bool]
    outlives_us: ClassVar[bool]
    """Whether what it makes is still there when our processes are gone, so that the ledger must know."""
    shares_addresses: ClassVar[bool]
    """Whether subnets of labs of different processes must not overlap, at the same `place`."""
    kill_loses_writes: ClassVar[bool]
    """Whether what a node has just written is lost when it is killed, as when a machine loses its power."""

    async def probe(self) -> str:
        """Return the version of what the backend runs on.

        Raises:
            BackendUnavailable: it cannot be used here; says why and what to do.
        """
        ...

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        """Return the reasons why this backend cannot run the topology; empty: it can.

        `images` are the user's own mappings of image names to this backend's references. Conditions
        are not looked at: the lab decides about them.
        """
        ...

    async def notes(self, topology: Topology) -> Sequence[str]:
        """Return what is declared but not enforced here, such as memory limits, for the report header.

        Where there is nothing to run on, what is known without that.
        """
        ...

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return the subnets that a network of a lab cannot have, since somebody else has them."""
        ...

    async def open(self, plan: LabPlan) -> None:
        """Prepare for a lab. Nothing of the lab exists before."""
        ...

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Create a network.

        Raises:
            SubnetTaken: somebody else has its subnet; the lab then tries another, unless the file
                gave it this one.
        """
        ...

    async def delete_network(self, name: str) -> None:
        """Delete a network; its nodes are gone. One that does not exist is no error."""
        ...

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        """Create a node and start it; on return it answers commands."""
        ...

    async def start_node(self, name: str) -> NodeInfo:
        """Start a stopped or dead node, with the addresses, links and files that it had."""
        ...

    async def stop_node(self, name: str, grace: float) -> None:
        """Stop a node in order: its main command gets SIGTERM and `grace` seconds."""
        ...

    async def kill_node(self, name: str) -> None:
        """End a node at once, as a power cut does. Its links stay."""
        ...

    async def pause_node(self, name: str) -> None:
        """Freeze everything in the node."""
        ...

    async def resume_node(self, name: str) -> None:
        """Undo `pause_node`."""
        ...

    async def delete_node(self, name: str) -> None:
        """Remove a node with all that belongs to it. One that does not exist is no error."""
        ...

    async def get_node(self, name: str) -> NodeInfo:
        """Return the node's state as it is now."""
        ...

    async def list_nodes(self) -> Sequence[NodeInfo]:
        """Return the state of every node of the lab."""
        ...

    def transport(self, name: str) -> Transport:
        """Return the way into a running node; asked anew after each start."""
        ...

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        """Return what the node has said so far; also of a dead one.

        With `timestamps`, which need `Capability.LOG_TIMES`, each line's time (RFC 3339) and a space
        are before it.
        """
        ...

    async def has_netem(self) -> bool:
        """Return whether the kernel of the nodes' links can delay and lose packets: `sch_netem`.

        Asked after `open`, before there is a node. Needs `Capability.CONDITIONS`.
        """
        ...

    async def links(self, name: str) -> Mapping[str, Link]:
        """Return, by network name, where conditions and cuts of a running node's links are applied.

        Asked anew after each start. What was applied to a node before it ended is gone, unless
        `links_outlive_nodes`.
        """
        ...

    async def echoes(self, name: str) -> Echoes | None:
        """Return the way to send and answer probes from within a running or paused node's network.

        Asked anew for each measurement, which closes it. None: the node may answer, but nothing can be sent
        from it now, since it is paused.

        Raises:
            NodeDied: it has ended.
        """
        ...

    def place(self) -> Mapping[str, str]:
        """Return the environment variables by which another process finds what `probe` has found here.

        Equal ones are the same daemon. Asked after `probe`.
        """
        ...

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        """Return by node what changes when the contents of its image do; of an open lab."""
        ...

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        """Leave the lab to itself: let go of everything, end nothing. Needs `Capability.KEEP`.

        `until` is in seconds since the machine's boot: a backend whose labs can end by themselves has them
        end then, if nobody uses them. A guest's call leaves that as it is.
        Return what `adopt` needs beside the plan, as JSON has it. `close` ends nothing any more then.
        """
        ...

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        """Take over a lab that another process has kept, in place of `open`; return its nodes.

        Raises:
            LabError: it is not whole any more; says what is missing. Nothing was changed.
        """
        ...

    async def checkpoint(self, name: str) -> None:
        """Remember a node that has become ready: `reset_node` leads back here. Needs `Capability.RESET`."""
        ...

    async def reset_node(self, name: str) -> NodeInfo:
        """Give a node the files of its checkpoint and start it anew, whatever became of it meanwhile.

        Its networks, addresses and links are as planned. What acted on its links is gone, unless
        `links_outlive_nodes`.
        """
        ...

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Return what exists outside the process tree and carries this owner's label; None: anybody's."""
        ...

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """Remove all that carries the labels of this owner and this lab, and nothing else.

        For labs whose process is gone; called after `probe`, without `open`.

        Raises:
            BenchscaleError: something could not be removed; the rest was.
        """
        ...

    async def close(self) -> None:
        """Let go of everything that the lab still holds here. Safe to call twice, and without `open`."""
        ...
