"""The part of the backend that keeps labs for other processes, takes them over, and leads nodes back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_benchscale.backends.base import LabPlan, NodeInfo, NodeStatus, OwnedThing
from pytest_benchscale.backends.docker import checkpoint, failures, images, keeping, owned
from pytest_benchscale.backends.docker.builds import LAB_LABEL
from pytest_benchscale.backends.docker.errand import Done, Errand
from pytest_benchscale.errors import LabError, NodeDied

if TYPE_CHECKING:
    from pytest_benchscale.backends.docker.containers import Containers
    from pytest_benchscale.backends.docker.dialect import Dialect
    from pytest_benchscale.backends.docker.engine import Engine
    from pytest_benchscale.backends.docker.node import DockerNode
    from pytest_benchscale.backends.docker.successors import Successors

__all__ = ["Upkeep"]


class Upkeep:
    """Methods of `DockerBackend`. While `_is_kept`, `close` ends nothing."""

    dialect: ClassVar[Dialect]
    _nodes: dict[str, DockerNode]
    _networks: dict[str, Errand | Done]
    _is_kept: bool
    _was_kept: bool = False

    async def image_ids(self, plan: LabPlan) -> Mapping[str, str]:
        """Return the ids of the images that the nodes would be made of now."""
        return await keeping.image_ids(self._opened(), plan)

    async def keep(self, until: float | None = None) -> Mapping[str, Any]:
        """Leave the lab to itself: what `adopt` needs are the ids of what there is."""
        self._opened()
        with failures.told("what waits for the nodes was not removed", "keep"):
            await asyncio.gather(*map(self._following().drop, self._nodes))
        networks = {}
        for name, errand in self._networks.items():
            if (identifier := await errand.outcome()) is None:
                raise LabError(f"network {name!r} is not there", step="keep")
            networks[name] = identifier
        self._is_kept = True
        return keeping.state_of(self._nodes, networks)

    async def adopt(self, plan: LabPlan, state: Mapping[str, Any]) -> Sequence[NodeInfo]:
        """Take over the containers and networks of a lab that was kept."""
        self._is_kept = self._was_kept = True
        try:
            await self.open(plan)
            nodes = await keeping.find_nodes(self._opened(), state)
        except BaseException:
            await self.close()
            raise
        for name, identifier in state["networks"].items():
            self._networks[name] = Done(identifier)
            with failures.told(f"network {name!r} cannot be looked at", "adopt"):
                await self._opened().attachments.learn(name, identifier)
        self._nodes.update(nodes)
        self._is_kept = False
        for node in nodes.values():
            if node.is_alive:
                self._ready(node)
            if node.status is NodeStatus.PAUSED and node.transport is not None:
                await node.transport.quiesce()
        return [node.info() for node in nodes.values()]

    async def checkpoint(self, name: str) -> None:
        """Remember a node's files, as an image where anything may have changed them."""
        await checkpoint.take(self._opened(), self._node(name))
        self._following().prepare(name)

    async def reset_node(self, name: str) -> NodeInfo:
        """Put a new container in the place of a node's own, whatever became of that."""
        containers, node = self._opened(), self._node(name)
        await self._watching()
        paused = node.status is NodeStatus.PAUSED
        node.status = NodeStatus.STOPPED  # its end is no news
        node.lost(NodeDied(name, "it was reset"))
        async with containers.engine.building():
            return self._ready(await self._following().replace(name, paused=paused))

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """Remove the containers, networks and images that carry the labels of this run and this lab."""
        engine = await self._reach()
        with failures.told(f"what lab {lab_id} has cannot be listed", "gc"):
            await owned.remove(engine, self.dialect, owner, lab_id)

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Return the containers, networks and images of a run."""
        engine = await self._reach()
        with failures.told("what the run has cannot be listed", "list"):
            return await owned.listed(engine, owner)

    async def _remove_rest(self, containers: Containers) -> None:
        """Remove what is left of the lab, also what no call has told of."""
        engine, remover = containers.engine, containers.remover
        await remover.everything({LAB_LABEL: containers.lab.lab_id})
        for node in self._nodes.values():
            await checkpoint.discard(remover, node)
        await images.discard(engine, remover.ask)
        if self._was_kept:  # what another process has built for it
            await owned.remove_images(engine, remover, containers.labels)

    if TYPE_CHECKING:

        async def open(self, plan: LabPlan) -> None:
            """Begin with a lab."""

        async def close(self) -> None:
            """Let go of it."""

        async def _reach(self) -> Engine: ...
        async def _watching(self) -> None: ...
        def _opened(self) -> Containers: ...
        def _following(self) -> Successors: ...
        def _node(self, name: str) -> DockerNode: ...
        def _ready(self, node: DockerNode) -> NodeInfo: ...
