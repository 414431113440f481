"""The embedded backend: nodes are Linux namespaces on this kernel; no root, no daemon, no download.

All of a lab (bridges, links, mounts, files, processes) lives in namespaces that one process holds, so
nothing touches the machine's own network or files, ten labs may use the same subnet, and the kernel
removes everything when that process ends. See `holder` and `init` for the other side.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

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
from pytest_benchscale.backends.local.diagnosis import explain
from pytest_benchscale.backends.local.internet import Uplink
from pytest_benchscale.backends.local.keep import Keep
from pytest_benchscale.backends.local.lab_process import LabProcess
from pytest_benchscale.backends.local.limits import Limits
from pytest_benchscale.backends.local.node import LocalNode, how_it_ended, main_ended
from pytest_benchscale.backends.local.spec import (
    has_internet,
    image_id,
    node_spec,
    reasons_against,
)
from pytest_benchscale.backends.local.traffic import HolderTraffic
from pytest_benchscale.backends.names import hosts_file
from pytest_benchscale.errors import BackendUnavailable, LabError, NodeDied, NotSupported
from pytest_benchscale.network.echo import Echoes, SocketEchoes
from pytest_benchscale.network.link import Link, Side
from pytest_benchscale.topology.addressing import IpAddress, IpNetwork
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.transports.namespace import channel
from pytest_benchscale.transports.namespace.channel import Message
from pytest_benchscale.transports.namespace.client import NamespaceTransport

__all__ = ["LocalBackend"]

_START_SECONDS = 30.0
_CAPABILITIES = frozenset(
    {
        Capability.PAUSE,
        Capability.STOP,
        Capability.VOLUMES,
        Capability.MAIN_COMMAND,
        Capability.INTERNET,
        Capability.CONDITIONS,
        Capability.PARTITIONS,
        Capability.RESET,
        Capability.KEEP,
    }
    # An ordinary user can map but one user into a node, which is its root; and may not remount its tmpfs.
    | ({Capability.USERS, Capability.FULL_DISK} if os.geteuid() == 0 else set())
)


class LocalBackend(Keep):
    """Nodes as Linux namespaces. `overlay=False` uses the fallback of a kernel without overlays."""

    name: ClassVar[str] = "local"
    links_outlive_nodes: ClassVar[bool] = True
    outlives_us: ClassVar[bool] = False
    shares_addresses: ClassVar[bool] = False
    kill_loses_writes: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = _CAPABILITIES

    def __init__(self, *, overlay: bool = True) -> None:
        self._overlay = overlay
        self._process: LabProcess | None = None
        self._plan: LabPlan | None = None
        self._networks: dict[str, tuple[NetworkInfo, int]] = {}
        self._nodes: dict[str, LocalNode] = {}
        self._hosts: tuple[Mapping[str, tuple[IpAddress, ...]], str] | None = None
        self._made = 0
        self._traffic: HolderTraffic | None = None

    async def probe(self) -> str:
        """Start the processes of a lab, which shows whether the kernel lets us; `open` uses them."""
        if sys.platform != "linux":
            raise BackendUnavailable(
                "local",
                f"it needs Linux, this is {platform.system()}",
                resolution="use another backend, such as docker, or run the tests in a Linux VM",
            )
        if self._process is None:
            process = LabProcess(self._event)
            await process.start(overlay=self._overlay)
            self._process, self._traffic = process, HolderTraffic(process)
        return f"Linux {platform.release()}"

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        """Return why nodes that share this kernel are not enough for the topology."""
        return reasons_against(topology, images)

    async def notes(self, topology: Topology) -> Sequence[str]:
        """Return which limits are not enforced, since control groups are not ours to make here."""
        limits = Limits.find("")
        enforced = {"memory_mb": limits.enforces_memory, "vcpus": limits.enforces_cpu}
        return [
            f"{key} of node {node.name!r} is not enforced: no control group may be made here"
            for node in topology.nodes
            for key, works in enforced.items()
            if getattr(node, key) is not None and not works
        ]

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return none: every lab has a network of its own."""
        return ()

    async def open(self, plan: LabPlan) -> None:
        """Start the lab's processes, unless `probe` has."""
        await self.probe()
        self._plan = plan

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Create a bridge in the lab's network namespace."""
        self._made += 1
        bridge = f"br{self._made}"
        answer = await self._ask("add_bridge", "network", plan.name, name=bridge)
        info = NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet, bridge)
        self._networks[plan.name] = info, answer["index"]
        return info

    async def delete_network(self, name: str) -> None:
        """Delete the bridge, unless the lab's end will: the kernel takes 50 ms for it otherwise."""
        info, _ = self._networks.pop(name, (None, 0))
        if info is not None and self._nodes and not self._is_gone:
            await self._ask("delete_link", "network", name, name=info.bridge)

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        """Fork a node's init and wait until it has built the node."""
        self._made += 1
        node = LocalNode(plan, self._made)
        self._nodes[plan.name] = node
        return await self._start(node)

    async def start_node(self, name: str) -> NodeInfo:
        """Fork a new init for a node that has a network namespace and files already."""
        node = self._node(name)
        if node.status in (NodeStatus.RUNNING, NodeStatus.PAUSED):
            return node.info()
        await self.kill_node(name)  # the kernel may still be at it
        return await self._start(node)

    async def stop_node(self, name: str, grace: float) -> None:
        """Shut a node down: SIGTERM for all its processes, and their end after `grace` seconds."""
        node = self._node(name)
        transport, alive = node.transport, node.status is not NodeStatus.DEAD
        if transport is not None and alive and node.status is not NodeStatus.STOPPED:
            node.status = NodeStatus.STOPPED
            try:
                await transport.post({"op": "stop", "grace": grace})
                with anyio.move_on_after(grace + 1):
                    await transport.wait_gone()
            except NodeDied:
                pass  # it was faster
        await self.kill_node(name)

    async def kill_node(self, name: str) -> None:
        """Kill a node's init, and so everything in it."""
        node = self._node(name)
        node.status = NodeStatus.STOPPED
        if not self._is_gone:
            await self._ask("kill", "stop", name, name=name, forget=False)
        self._let_go(node)

    async def pause_node(self, name: str) -> None:
        """Stop every process of the node by SIGSTOP."""
        await self._transport(name).request("freeze")
        self._node(name).status = NodeStatus.PAUSED

    async def resume_node(self, name: str) -> None:
        """Continue every process of the node by SIGCONT."""
        await self._transport(name).request("thaw")
        self._node(name).status = NodeStatus.RUNNING

    async def delete_node(self, name: str) -> None:
        """Kill a node and let go of its network; its files go with the lab."""
        node = self._nodes.get(name)
        if node is None:
            return
        node.status = NodeStatus.STOPPED
        if not self._is_gone:
            await self._ask("kill", "delete", name, name=name, forget=True)
        del self._nodes[name]
        self._dispose(node)

    async def get_node(self, name: str) -> NodeInfo:
        """Return the node's state; its end is noticed when it happens, not when asked."""
        return self._node(name).info()

    async def list_nodes(self) -> Sequence[NodeInfo]:
        """Return the state of every node."""
        return [node.info() for node in self._nodes.values()]

    def transport(self, name: str) -> NamespaceTransport:
        """Return the channel to the node's init."""
        return self._transport(name)

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        """Return what the node's main command has written; nobody takes the time of it."""
        if timestamps:
            raise NotSupported(self.name, Capability.LOG_TIMES)
        return self._node(name).read_log()

    async def has_netem(self) -> bool:
        """Let the holder try it in the lab's network namespace."""
        answer = await self._ask("has_netem", "network conditions", self._lab_plan().name)
        return bool(answer["netem"])

    async def links(self, name: str) -> Mapping[str, Link]:
        """Return the veth ends on the bridges; they are in the lab's network namespace."""
        node = self._node(name)
        if self._traffic is None:
            raise LabError("the lab is not open", step="links")
        return {
            interface.network: Link(node.link_name(i), Side.OUTSIDE, self._traffic)
            for i, interface in enumerate(node.plan.interfaces)
        }

    async def echoes(self, name: str) -> Echoes:
        """Have the holder open sockets in the node's network."""
        if self._process is None:
            raise LabError("the lab is not open", node=name, step="echoes")
        _, descriptors = await self._process.fetch("echoes", name=name)
        if not descriptors:
            raise NodeDied(name, self._node(name).why())
        return SocketEchoes([socket.socket(fileno=one) for one in descriptors])

    def place(self) -> Mapping[str, str]:
        """Return what leads another process to the same daemon."""
        return {}

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        """Return what a root file system is known by; its files are not looked at."""
        return {node.name: image_id(node, plan) for node in plan.nodes}

    async def checkpoint(self, name: str) -> None:
        """Have the holder copy what distinguishes the node's files from its image."""
        await self._ask("checkpoint", "checkpoint", name, name=name)

    async def reset_node(self, name: str) -> NodeInfo:
        """Start the node anew on the files of its checkpoint, in a new network namespace."""
        node = self._node(name)
        await self.kill_node(name)
        if node.uplink is not None:  # it is in the old one
            node.uplink.close()
            node.uplink = None
        node.has_uplink = False
        node.clear_log()
        info = await self._start(node, reset=True)
        await self._ask("renew_filters", "reset", name, name=name)
        return info

    async def close(self) -> None:
        """End the lab's processes; the kernel removes the rest."""
        process, self._process = self._process, None
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            node.status = NodeStatus.STOPPED
        self._networks.clear()
        if process is not None and self._is_guest:
            process.leave()
        elif process is not None:
            await process.close()
        for node in nodes.values():
            self._dispose(node)

    async def _start(self, node: LocalNode, *, reset: bool = False) -> NodeInfo:
        plan, lab = node.plan, self._lab_plan()
        ours, theirs = channel.pair()
        node.ready, node.failure = anyio.Event(), None
        node.transport = self._transport_over(node, ours)
        bridges = {name: index for name, (_, index) in self._networks.items()}
        links = [node.link_name(i) for i in range(len(plan.interfaces))]
        try:
            spec = node_spec(plan, lab, bridges, links, self._hosts_file(plan.hosts))
            spec["reset"] = reset
            await self._ask("start", "create", plan.name, (theirs.fileno(), node.log), spec=spec)
        except BaseException:
            self._let_go(node)
            raise
        finally:
            theirs.close()
        with anyio.move_on_after(_START_SECONDS * lab.timeout_scale):
            await node.ready.wait()
        try:
            await self._settle_network(node)
        except BaseException:
            self._let_go(node)
            raise
        if node.status is not NodeStatus.RUNNING:
            self._let_go(node)
            raise self._could_not_start(node)
        return node.info()

    def _transport_over(self, node: LocalNode, sock: socket.socket) -> NamespaceTransport:
        return NamespaceTransport(
            node.plan.name,
            sock,
            on_event=lambda message, fds: self._node_event(node, message, fds),
            on_close=lambda: self._node_lost(node),
            why_ended=node.why,
        )

    def _hosts_file(self, hosts: Mapping[str, tuple[IpAddress, ...]]) -> str:
        """Return the text of /etc/hosts; nodes that share the mapping share the text."""
        if self._hosts is None or self._hosts[0] is not hosts:
            self._hosts = hosts, hosts_file(hosts)
        return self._hosts[1]

    async def _settle_network(self, node: LocalNode) -> None:
        """Have the holder keep the node's network, so that it outlives a stop; connect it outside."""
        namespace, node.namespace = node.namespace, -1
        if namespace < 0:
            return
        try:
            if self._process is not None:
                await self._process.post("keep_network", (namespace,), name=node.plan.name)
            if not node.has_uplink and has_internet(node.plan, self._lab_plan()):
                node.uplink = Uplink(node.plan.name)
                await node.uplink.open(namespace)
                node.has_uplink = True
        finally:
            os.close(namespace)

    def _node_event(self, node: LocalNode, message: Message, descriptors: list[int]) -> None:
        """Take what a node's init says of its own accord."""
        if "ready" in message:
            node.status, node.reason = NodeStatus.RUNNING, None
            node.namespace = descriptors.pop()
            node.ready.set()
        elif "failed" in message:
            node.failure = message
            node.ready.set()
        elif "ended" in message and node.status is not NodeStatus.STOPPED:
            node.reason = main_ended(message["ended"])
        for descriptor in descriptors:
            os.close(descriptor)

    def _event(self, message: Message) -> None:
        """Take what the holder says of its own accord: a node's init has ended."""
        node = self._nodes.get(message["ended"])
        if node is None:
            return
        self._node_lost(node)
        if node.status is NodeStatus.DEAD and node.reason is None:
            node.reason = how_it_ended(message["status"])

    def _node_lost(self, node: LocalNode) -> None:
        """Take note that a node's init is gone, asked for or not."""
        if node.status in (NodeStatus.RUNNING, NodeStatus.PAUSED):
            node.status = NodeStatus.DEAD
        node.ready.set()

    def _could_not_start(self, node: LocalNode) -> LabError:
        name = node.plan.name
        if node.failure is None:
            reason = node.reason or "its first process ended, or gave no answer in time"
            brief = f"node {name!r} did not start: {reason}"
            return LabError(brief, node=name, step="create", details=node.read_log() or None)
        step, number, text = (node.failure[key] for key in ("failed", "errno", "text"))
        reason, resolution = explain(step, number, text)
        brief = f"node {name!r} did not start: {reason}"
        return LabError(brief, node=name, step=f"create: {step}", resolution=resolution)

    @property
    def _is_gone(self) -> bool:
        return self._process is None or self._process.is_gone

    async def _ask(
        self,
        operation: str,
        step: str,
        subject: str,
        descriptors: tuple[int, ...] = (),
        **fields: object,
    ) -> Message:
        """Ask the holder; an errno becomes a `LabError` that names the subject."""
        if self._process is None:
            raise LabError(f"{step} {subject!r}: the lab is not open", step=step)
        try:
            return await self._process.request(operation, descriptors, **fields)
        except OSError as error:
            reason, resolution = explain(operation, error.errno or 0, str(error.strerror))
            raise LabError(
                f"{step} {subject!r} failed: {reason}",
                node=subject,
                step=step,
                resolution=resolution,
            ) from error

    def _dispose(self, node: LocalNode) -> None:
        self._let_go(node)
        os.close(node.log)
        if node.uplink is not None:
            node.uplink.close()

    def _let_go(self, node: LocalNode) -> None:
        transport, node.transport = node.transport, None
        if transport is not None:
            transport.close()

    def _node(self, name: str) -> LocalNode:
        try:
            return self._nodes[name]
        except KeyError:
            raise LabError(f"there is no node {name!r} in this lab", node=name) from None

    def _transport(self, name: str) -> NamespaceTransport:
        node = self._node(name)
        if node.transport is None or node.status is NodeStatus.DEAD:
            raise NodeDied(name, node.why())
        return node.transport

    def _lab_plan(self) -> LabPlan:
        if self._plan is None:
            raise LabError("the lab is not open", step="create")
        return self._plan
