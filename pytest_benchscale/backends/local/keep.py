"""Leaving a lab of the embedded backend to itself, taking it over, and ending it from outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_benchscale.backends.base import (
    LabPlan,
    NetworkInfo,
    NodeInfo,
    NodePlan,
    NodeStatus,
    OwnedThing,
)
from pytest_benchscale.backends.local import meeting
from pytest_benchscale.backends.local.lab_process import LabProcess
from pytest_benchscale.backends.local.node import LocalNode
from pytest_benchscale.backends.local.traffic import HolderTraffic
from pytest_benchscale.errors import LabError
from pytest_benchscale.transports.namespace.channel import Message
from pytest_benchscale.transports.namespace.client import NamespaceTransport

__all__ = ["Keep"]

_RUN = "benchscale.run"  # the label that says whose a lab is


class Keep:
    """What `LocalBackend` does about labs that outlive their maker."""

    _process: LabProcess | None
    _plan: LabPlan | None
    _networks: dict[str, tuple[NetworkInfo, int]]
    _nodes: dict[str, LocalNode]
    _made: int
    _traffic: HolderTraffic | None

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        """Have the holder live on at a socket, until somebody takes the lab over or its time is over."""
        process, plan = self._process, self._plan
        if process is None or plan is None:
            raise LabError("the lab is not open", step="keep")
        address = meeting.address_of(plan.labels.get(_RUN, ""), plan.lab_id)
        if not plan.guest:
            for node in self._nodes.values():
                if node.uplink is not None:
                    await self._leave_uplink(process, node)
            memory = {
                "networks": {name: [info.bridge, i] for name, (info, i) in self._networks.items()},
                "numbers": {name: node.number for name, node in self._nodes.items()},
                "made": self._made,
            }
            await process.keep(address, memory, until)
        process.leave()
        self._process = None
        for node in self._nodes.values():
            self._dispose(node)
        self._nodes.clear()
        return {"address": address}

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        """Join the holder, and have it open a channel to each node's first process."""
        if self._process is not None:  # `probe` has started one
            await self._process.close()
        process = self._process = LabProcess(self._event)
        found = await process.join(state["address"], owner=not plan.guest)
        memory, nodes = found["memory"], found["nodes"]
        if missing := [node.name for node in plan.nodes if node.name not in nodes]:
            raise LabError(
                f"the lab is not whole any more: {', '.join(missing)} gone", step="adopt"
            )
        self._plan, self._made, self._traffic = plan, memory["made"], HolderTraffic(process)
        for network in plan.networks:
            bridge, index = memory["networks"][network.name]
            info = NetworkInfo(
                network.name, network.subnet, network.gateway, network.internet, bridge
            )
            self._networks[network.name] = info, index
        for node in plan.nodes:
            await self._enter(process, node, memory["numbers"][node.name], nodes[node.name])
        return [node.info() for node in self._nodes.values()]

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Return the labs that are kept: what else this backend makes ends with our processes."""
        return meeting.kept_labs(owner)

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """End the holder of a lab that is kept, and wait until all of it is gone."""
        process = LabProcess(lambda _message: None)
        address = meeting.address_of(owner, lab_id)
        if all(thing.identifier != address for thing in meeting.kept_labs(owner)):
            return
        try:
            await process.join(address, owner=True)
        except LabError:
            return  # it was faster
        await process.close()

    async def _enter(
        self, process: LabProcess, plan: NodePlan, number: int, state: Message
    ) -> None:
        _, (log, *way_in) = await process.fetch("enter", name=plan.name)
        node = self._nodes[plan.name] = LocalNode(plan, number, log)
        node.found(state)
        if not way_in:
            return
        node.transport = self._transport_over(node, socket.socket(fileno=way_in[0]))
        answer, _ = await node.transport.request("state")
        if answer["frozen"]:
            node.status = NodeStatus.PAUSED

    async def _leave_uplink(self, process: LabProcess, node: LocalNode) -> None:
        uplink, node.uplink = node.uplink, None
        if uplink is None:
            return
        pipe = uplink.hand_over()
        try:
            await process.request("hold_uplink", (pipe,), name=node.plan.name)
        finally:
            os.close(pipe)

    @property
    def _is_guest(self) -> bool:
        return self._plan is not None and self._plan.guest

    def _event(self, message: Message) -> None:
        raise NotImplementedError

    def _transport_over(self, node: LocalNode, sock: socket.socket) -> NamespaceTransport:
        raise NotImplementedError

    def _dispose(self, node: LocalNode) -> None:
        raise NotImplementedError
