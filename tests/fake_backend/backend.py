"""The fake backend and the script that it follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
from pytest_benchscale.errors import BenchscaleError, NotSupported
from pytest_benchscale.network.echo import Echoes
from pytest_benchscale.network.link import Link, Side
from pytest_benchscale.network.steps import Step
from pytest_benchscale.topology.addressing import IpNetwork
from pytest_benchscale.topology.model import Topology
from tests.fake_backend.echoes import FakeEchoes
from tests.fake_backend.node import FakeNode, FakeTransport

__all__ = ["FakeBackend", "Script", "make_backend"]


class FakeConduit:
    """Takes down what it is asked to do; `refuse` has it fail instead, of `refuse_for` only for that node."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.changes = 0
        self.refuse: OSError | None = None
        self.refuse_for = ""

    async def change(self, steps: Sequence[Step]) -> None:
        await asyncio.sleep(0)
        if self.refuse and any(step.device.startswith(self.refuse_for) for step in steps):
            raise self.refuse
        self.changes += 1
        self.steps += steps


@dataclass
class Script:
    """What happens in a step, by its name: `probe`, `open`, `create_node a`, `delete_network lan`...

    `journal` lists the steps in the order in which they began, `done` those that succeeded. `nodes`
    and `networks` are what exists, by lab id and name, of all labs that follow this script.
    """

    failures: dict[str, BaseException] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)  # for `can_run`
    notes: list[str] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    most_at_once: int = 0
    cancelled: list[str] = field(default_factory=list)
    nodes: dict[tuple[str, str], FakeNode] = field(default_factory=dict)
    networks: dict[tuple[str, str], NetworkInfo] = field(default_factory=dict)
    open_labs: int = 0
    netem: bool = True
    conduit: FakeConduit = field(default_factory=FakeConduit)

    def fail(self, step: str, error: BaseException) -> None:
        self.failures[step] = error

    def delay(self, step: str, seconds: float) -> None:
        self.delays[step] = seconds

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left of any lab."""
        return not (self.nodes or self.networks or self.open_labs or self.under_way)

    def node(self, name: str) -> FakeNode:
        """Return the node of that name in the lab that was opened last."""
        return [node for (_, one), node in self.nodes.items() if one == name][-1]

    async def step(self, *words: str) -> None:
        """Do what the script says about a step; every step is a place to be cancelled at."""
        name = " ".join(words)
        self.journal.append(name)
        self.under_way.add(name)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            await asyncio.sleep(self.delays.get(name, self.delays.get(words[0], 0)))
            if failure := self.failures.get(name, self.failures.get(words[0])):
                raise failure
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.under_way.discard(name)
        self.done.append(name)


class FakeBackend:
    """A backend whose nodes are objects. Follows the script of its class."""

    name: ClassVar[str] = "fake"
    links_outlive_nodes: ClassVar[bool] = False
    outlives_us: ClassVar[bool] = False
    shares_addresses: ClassVar[bool] = False
    kill_loses_writes: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.PAUSE, Capability.STOP, Capability.USERS}
    )
    script: ClassVar[Script] = Script()

    def __init__(self) -> None:
        self._open = False
        self._lab = ""

    async def probe(self) -> str:
        await self.script.step("probe")
        return "0.0"

    def can_run(self, topology: Topology, images: Mapping[str, str]) -> Sequence[str]:
        return self.script.reasons

    async def notes(self, topology: Topology) -> Sequence[str]:
        return self.script.notes

    async def taken_subnets(self) -> Sequence[IpNetwork]:
        """Return none: every lab has a network of its own."""
        return ()

    async def open(self, plan: LabPlan) -> None:
        self._open, self._lab = True, plan.lab_id
        self.script.open_labs += 1
        await self.script.step("open")

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        info = NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet)
        self.script.networks[self._lab, plan.name] = info  # half of it is there when it fails
        await self.script.step("create_network", plan.name)
        return info

    async def delete_network(self, name: str) -> None:
        await self.script.step("delete_network", name)
        self.script.networks.pop((self._lab, name), None)

    async def create_node(self, plan: NodePlan) -> NodeInfo:
        node = self.script.nodes[self._lab, plan.name] = FakeNode(plan)
        await self.script.step("create_node", plan.name)
        node.start()
        return node.info()

    async def start_node(self, name: str) -> NodeInfo:
        await self.script.step("start_node", name)
        node = self._node(name)
        node.start()
        return node.info()

    async def stop_node(self, name: str, grace: float) -> None:
        await self.script.step("stop_node", name)
        self._node(name).end(NodeStatus.STOPPED)

    async def kill_node(self, name: str) -> None:
        await self.script.step("kill_node", name)
        self._node(name).end(NodeStatus.STOPPED)

    async def pause_node(self, name: str) -> None:
        await self.script.step("pause_node", name)
        self._node(name).pause()

    async def resume_node(self, name: str) -> None:
        await self.script.step("resume_node", name)
        self._node(name).resume()

    async def delete_node(self, name: str) -> None:
        await self.script.step("delete_node", name)
        if node := self.script.nodes.pop((self._lab, name), None):
            node.end(NodeStatus.STOPPED)

    async def get_node(self, name: str) -> NodeInfo:
        return self._node(name).info()

    async def list_nodes(self) -> Sequence[NodeInfo]:
        return [node.info() for (lab, _), node in self.script.nodes.items() if lab == self._lab]

    def transport(self, name: str) -> FakeTransport:
        return FakeTransport(self._node(name))

    async def logs(self, name: str, *, timestamps: bool = False) -> str:
        if timestamps:
            raise NotSupported(self.name, Capability.LOG_TIMES)
        await self.script.step("logs", name)
        return self._node(name).log

    async def has_netem(self) -> bool:
        return self.script.netem

    async def links(self, name: str) -> Mapping[str, Link]:
        return {
            one.network: Link(f"{name}.{one.device}", Side.OUTSIDE, self.script.conduit)
            for one in self._node(name).plan.interfaces
        }

    async def echoes(self, name: str) -> Echoes | None:
        await self.script.step("echoes", name)
        node = self._node(name)
        return None if node.status is NodeStatus.PAUSED else FakeEchoes(node)

    def place(self) -> Mapping[str, str]:
        return {}

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        return {node.name: f"id of {node.image}" for node in plan.nodes}

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        await self.script.step("keep")
        self._open = False
        return {"kept": self._lab}

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        self._open, self._lab = True, plan.lab_id
        await self.script.step("adopt")
        return await self.list_nodes()

    async def checkpoint(self, name: str) -> None:
        await self.script.step("checkpoint", name)
        self._node(name).checkpoint()

    async def reset_node(self, name: str) -> NodeInfo:
        await self.script.step("reset_node", name)
        node = self._node(name)
        node.reset()
        return node.info()

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        await self.script.step("delete_owned", lab_id)
        self.script.open_labs -= lab_id in {lab for lab, _ in self.script.nodes}
        for key in [key for key in self.script.nodes if key[0] == lab_id]:
            del self.script.nodes[key]
        for key in [key for key in self.script.networks if key[0] == lab_id]:
            del self.script.networks[key]

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        return []

    async def close(self) -> None:
        await self.script.step("close")
        if self._open:
            self._open = False
            self.script.open_labs -= 1

    def _node(self, name: str) -> FakeNode:
        try:
            return self.script.nodes[self._lab, name]
        except KeyError:
            raise BenchscaleError(f"there is no fake node {name!r}") from None


def make_backend(
    script: Script, name: str = "fake", capabilities: frozenset[Capability] | None = None
) -> type[FakeBackend]:
    """Return a backend class that follows a script."""
    members = {"script": script, "name": name}
    if capabilities is not None:
        members["capabilities"] = capabilities
    return type("ScriptedBackend", (FakeBackend,), members)
