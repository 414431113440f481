"""Nodes as Docker containers, networks as Docker's.

Everything carries the lab's label, and only what was created by id, or carries that label, is ever removed.
What the daemon is asked for runs in worker threads; what happens to containers is told by its events.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import anyio

from pytest_benchscale.backends.base import (
    Capability,
    LabPlan,
    NetworkInfo,
    NetworkPlan,
    NodeInfo,
    NodePlan,
    NodeStatus,
)
from pytest_benchscale.backends.docker import (
    checkpoint,
    connection,
    failures,
    routes,
    subnets,
)
from pytest_benchscale.backends.docker.ability import (
    CAPABILITIES,
    Ability,
    ability_of,
    not_enforced,
    refuse_volumes_elsewhere,
)
from pytest_benchscale.backends.docker.attachments import Attachments
from pytest_benchscale.backends.docker.containers import LAB_LABEL, NETWORK_LABEL, Containers
from pytest_benchscale.backends.docker.dialect import DOCKER, Dialect
from pytest_benchscale.backends.docker.endpoints import Endpoint, find_docker
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.errand import Done, Errand
from pytest_benchscale.backends.docker.links import Access
from pytest_benchscale.backends.docker.network import wire
from pytest_benchscale.backends.docker.node import DockerNode, nanoseconds
from pytest_benchscale.backends.docker.plugging import plugs_for
from pytest_benchscale.backends.docker.removal import Remover
from pytest_benchscale.backends.docker.successors import Successors
from pytest_benchscale.backends.docker.upkeep import Upkeep
from pytest_benchscale.backends.docker.vigil import Vigil
from pytest_benchscale.errors import (
    BackendUnavailable,
    BenchscaleError,
    LabError,
    NodeDied,
    SubnetTaken,
)
from pytest_benchscale.network.echo import Echoes
from pytest_benchscale.network.link import Link
from pytest_benchscale.topology import images as catalogue
from pytest_benchscale.topology.addressing import IpNetwork
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.transports.container.client import ContainerTransport

__all__ = ["DockerBackend"]

_FATE_SECONDS = 10.0
_GONE = 404
_JUST_NOW = "a network that is made or removed just now has it"
_OVERLAPS = ("overlap", "already used")


class DockerBackend(Upkeep):
    """Nodes as containers of a Docker daemon, on this machine or another."""

    name: ClassVar[str] = "docker"
    links_outlive_nodes: ClassVar[bool] = False
    outlives_us: ClassVar[bool] = True
    shares_addresses: ClassVar[bool] = True
    kill_loses_writes: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = CAPABILITIES
    dialect: ClassVar[Dialect] = DOCKER

    last_ability: ClassVar[Ability] = Ability()
    """What the daemon that was used last can do: `notes` is asked before there is a connection."""

    def __init__(self) -> None:
        self._endpoint: Endpoint | None = None
        self._engine: Engine | None = None
        self._containers: Containers | None = None
        self._access: Access | None = None
        self._successors: Successors | None = None
        self._vigil: Vigil | None = None
        self._nodes: dict[str, DockerNode] = {}
        self._networks: dict[str, Errand | Done] = {}
        self._is_kept = False

    async def connect(self) -> Engine:
        """Return a connection to the daemon; for backends that find theirs otherwise."""
        self._endpoint = find_docker()
        return await connection.connect(self.name, self._endpoint)

    async def can_be_internal(self, engine: Engine, info: Mapping[str, Any]) -> bool:
        """Return whether networks without a way out are made internal ones; `info` is the daemon's own.

        Not where they are as well shut by removing the default route: on an internal one no broadcast passes.
        """
        return not routes.can_be_set(engine)

    async def probe(self) -> str:
        """Connect to the daemon; `open` uses the connection."""
        engine = await self._reach()
        return f"{engine.client.about['Version']} (API {engine.client.api_version})"

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        """Return why containers are not enough for the topology."""
        reasons = []
        for node in topology.nodes:
            try:
                catalogue.resolve(node.image, self.name, images)
            except BenchscaleError as error:
                reasons.append(f"node {node.name!r}: {error}")
            if node.ssh is not None:
                reasons.append(f"node {node.name!r}: ssh needs a machine of its own")
        return reasons

    async def notes(self, topology: Topology) -> Sequence[str]:
        """Return which limits the daemon, as last seen, does not enforce."""
        return list(not_enforced(topology, type(self).last_ability))

    async def open(self, plan: LabPlan) -> None:
        """Find out what the daemon can do, and begin to listen to its events."""
        engine = await self._reach()
        refuse_volumes_elsewhere(engine, plan)
        with failures.told("the daemon tells nothing of itself", "open"):
            info = await engine.info()
        version, internal = engine.client.api_version, await self.can_be_internal(engine, info)
        ability = ability_of(info, version, self.dialect, internal=internal)
        type(self).last_ability = ability
        remover = Remover(engine, plan.timeout_scale, self.dialect)
        plugs = await plugs_for(engine, plan, info, self.dialect)
        wirings = wire(
            plan,
            internal=ability.internal,
            routes_internally=self.dialect.routes_internally,
            spares=plugs is not None,
        )
        attachments = Attachments(engine, wirings, ability, self.dialect, plugs)
        self._containers = Containers(engine, plan, attachments, ability, self.dialect, remover)
        self._access = Access(self._containers, info)
        self._successors = Successors(self._containers, self._nodes)
        label = {LAB_LABEL: plan.lab_id}
        self._vigil = Vigil(engine, label, self._nodes, self.dialect)
        since = nanoseconds(info.get("SystemTime", "")) // 10**9
        with failures.told("the daemon sends no events", "open"):
            await self._vigil.begin(since)

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Create a network of Docker's, unless its subnet belongs to somebody."""
        containers = self._opened()
        engine, wiring = containers.engine, containers.wirings[plan.name]
        labels = containers.labels | {NETWORK_LABEL: plan.name}
        request = wiring.request(labels)
        if engine.address.is_local and await subnets.is_routed(plan.subnet):
            await self._refuse_taken(plan)
        errand = Errand(engine, engine.client.create_network, **request)
        self._networks[plan.name] = errand
        try:
            identifier = await errand.identifier()
        except ApiError as error:
            if any(word in error.explanation for word in _OVERLAPS):
                await self._refuse_taken(plan)
                # Who had it has let go of it since then.
                raise SubnetTaken(plan.name, plan.subnet, _JUST_NOW) from error
            what = f"network {plan.name!r} could not be created"
            raise failures.explain(error, what, "network") from error
        with failures.told(f"network {plan.name!r} cannot be looked at", "network"):
            bridge = await containers.attachments.learn(plan.name, identifier)
        return NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet, bridge)

    async def delete_network(self, name: str) -> None:
        """Remove a network."""
        self._is_kept = False
        errand = self._networks.get(name)
        if errand is not None and (identifier := await errand.outcome()) is not None:
            await self._opened().remover.network(identifier)
        self._networks.pop(name, None)

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return the subnets of the daemon's networks, and of this machine's routes when it runs here."""
        engine = await self._reach()
        with failures.told("the daemon's networks cannot be listed", "network"):
            return [one.subnet for one in await subnets.in_use(engine, self.dialect)]

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        """Create a container on its networks and start it."""
        containers = self._opened()
        node = DockerNode(plan)
        self._nodes[plan.name] = node
        async with containers.engine.building():
            await containers.create(node)
            return self._ready(node)

    async def start_node(self, name: str) -> NodeInfo:
        """Start a container again; what it has on disk is as it was."""
        containers, node = self._opened(), self._node(name)
        await self._watching()
        if not node.is_alive:
            if node.container is None:
                raise LabError(
                    f"node {name!r} has no container: its reset failed",
                    node=name,
                    step="start",
                    resolution="reset the lab again, or bring it up anew",
                )
            node.lost(NodeDied(name, node.why()))
            async with containers.engine.building():
                await containers.attachments.leave_later_networks(node)
                await containers.start(node, again=True)
                self._ready(node)
        return node.info()

    async def stop_node(self, name: str, grace: float) -> None:
        """Have Docker stop a container: SIGTERM, or what its image wants, and SIGKILL after `grace`."""
        await self._end(name, "stop", self._connected().client.stop, timeout=math.ceil(grace))

    async def kill_node(self, name: str) -> None:
        """Kill a container's main process, and so everything in it."""
        await self._end(name, "kill", self._connected().client.kill)

    async def pause_node(self, name: str) -> None:
        """Freeze a container."""
        node = self._node(name)
        # What is being started in a container at this moment would be frozen half-way, and the daemon
        # would then answer nothing about the container any more.
        if node.transport is not None:
            await node.transport.quiesce()
        await self._change(node, "pause", self._connected().client.pause)
        node.status = NodeStatus.PAUSED if node.is_alive else node.status

    async def resume_node(self, name: str) -> None:
        """Let a frozen container go on."""
        node = self._node(name)
        await self._change(node, "resume", self._connected().client.unpause)
        node.status = NodeStatus.RUNNING if node.is_alive else node.status
        if node.transport is not None:
            node.transport.resume()

    async def delete_node(self, name: str) -> None:
        """Remove a container and what it has written."""
        self._is_kept = False
        node = self._nodes.get(name)
        if node is None:
            return
        paused, alive = node.status is NodeStatus.PAUSED, node.is_alive
        node.status = NodeStatus.STOPPED if alive else node.status
        node.lost(NodeDied(name, "it was removed"))
        await self._following().drop(name)
        await self._opened().remove(node, paused=paused)
        await checkpoint.discard(self._opened().remover, node)
        self._nodes.pop(name, None)

    async def get_node(self, name: str) -> NodeInfo:
        """Return the node's state; its end is noticed when it happens, not when asked."""
        await self._watching()
        return self._node(name).info()

    async def list_nodes(self) -> Sequence[NodeInfo]:
        """Return the state of every node."""
        await self._watching()
        return [node.info() for node in self._nodes.values()]

    def transport(self, name: str) -> ContainerTransport:
        """Return the way into a running container."""
        node = self._node(name)
        if node.transport is None or not node.is_alive:
            raise NodeDied(name, node.why())
        return node.transport

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        """Return what the container has written."""
        node = self._node(name)
        with failures.told(f"the log of node {name!r} cannot be read", "logs", name):
            return await self._opened().log(node, timestamps=timestamps)

    async def has_netem(self) -> bool:
        """Return whether the daemon's kernel can delay and lose packets."""
        return await self._way_in().has_netem()

    async def links(self, name: str) -> Mapping[str, Link]:
        """Return where conditions and cuts of a running container's links are applied."""
        node = self._node(name)
        return await self._way_in().links(node, functools.partial(self._fate, node))

    async def echoes(self, name: str) -> Echoes | None:
        """Return the way to send probes from within a container's network."""
        node = self._node(name)
        return await self._way_in().echoes(node, functools.partial(self._fate, node))

    def place(self) -> Mapping[str, str]:
        """Return what leads another process to the same daemon."""
        return self._endpoint.environment() if self._endpoint else {}

    async def close(self) -> None:
        """Remove what is left of the lab, unless it is kept, and leave the daemon."""
        engine, containers = self._engine, self._containers
        if self._vigil is not None:
            self._vigil.end()
        if engine is None:
            return
        try:
            if containers is not None:
                await self._following().end()
                for node in self._nodes.values():
                    node.lost(NodeDied(node.plan.name, "its lab is closed"))
                if not self._is_kept:
                    await self._remove_rest(containers)
            self._engine = self._containers = None
            self._nodes.clear()
            self._networks.clear()
        finally:
            await engine.aclose()

    async def _end(
        self, name: str, step: str, request: Callable[..., None], **options: object
    ) -> None:
        node = self._node(name)
        before, node.status = node.status, NodeStatus.STOPPED
        try:
            await self._change(node, step, request, **options)
        except BaseException:
            node.still(before)
            raise
        node.lost(NodeDied(name, node.why()))
        await self._opened().attachments.part(node)

    async def _change(
        self, node: DockerNode, step: str, request: Callable[..., None], **options: object
    ) -> None:
        """Ask for a change of a container's state; that it has ended already is no error."""
        what = f"{step} of node {node.plan.name!r} failed"
        try:
            await self._connected().call(request, node.container, **options)
        except ApiError as error:
            if "is not running" not in error.explanation:
                raise failures.explain(error, what, step, node.plan.name) from error

    def _ready(self, node: DockerNode) -> NodeInfo:
        """Make the way into a container that was started."""
        assert node.container is not None  # noqa: S101  it was created
        fate = functools.partial(self._fate, node)
        node.transport = ContainerTransport(
            node.plan.name, self._connected(), node.container, fate=fate
        )
        node.transport.prepare()
        return node.info()

    async def _fate(self, node: DockerNode) -> BenchscaleError | None:
        """Return why connections to a container break; None: it runs."""
        name = node.plan.name
        if node.is_alive and node.container is not None:
            try:
                with anyio.fail_after(_FATE_SECONDS):
                    node.seen((await self._opened().inspect(node.container))["State"])
            except ApiError as error:
                if error.status != _GONE:
                    return failures.explain(
                        error, f"node {name!r} cannot be looked at", "exec", name
                    )
                node.gone()
            except TimeoutError:
                return BackendUnavailable(self.name, "its daemon does not answer")
            except BenchscaleError as error:
                return error
        return None if node.is_alive else NodeDied(name, node.why())

    async def _watching(self) -> None:
        if self._vigil is not None:
            await self._vigil.require()

    async def _refuse_taken(self, plan: NetworkPlan) -> None:
        """Raise the error that names who has a network's subnet, if somebody has."""
        with failures.told("the daemon's networks cannot be listed", "network"):
            holdings = await subnets.in_use(self._connected(), self.dialect)
        if (holder := subnets.holder_of(plan.subnet, holdings)) is not None:
            raise SubnetTaken(plan.name, plan.subnet, holder)

    async def _reach(self) -> Engine:
        if self._engine is None:
            self._engine = await self.connect()
        return self._engine

    def _connected(self) -> Engine:
        if self._engine is None:
            raise LabError("the lab is not open")
        return self._engine

    def _opened(self) -> Containers:
        if self._containers is None:
            raise LabError("the lab is not open")
        return self._containers

    def _following(self) -> Successors:
        if self._successors is None:
            raise LabError("the lab is not open")
        return self._successors

    def _way_in(self) -> Access:
        if self._access is None:
            raise LabError("the lab is not open")
        return self._access

    def _node(self, name: str) -> DockerNode:
        try:
            return self._nodes[name]
        except KeyError:
            raise LabError(f"there is no node {name!r} in this lab", node=name) from None
