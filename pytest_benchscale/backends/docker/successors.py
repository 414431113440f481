"""Leading nodes back: a container with the files of the checkpoint takes the place of the one that was used.

Starting and ending a container take the daemon a tenth of a second of its processors, each. For a node that
only waits for commands, and whose links are ours, both need not be waited for: while a test runs, a container
is started that is on no network yet. A reset kills what ran in the node, connects that container in its
stead, and leaves it to the daemon to end the other one, and to start the next, when it is not busy.
"""

from __future__ import annotations

import asyncio
import dataclasses

from anyio import to_thread

from pytest_benchscale.backends.docker import failures
from pytest_benchscale.backends.docker.containers import FORMER, Containers
from pytest_benchscale.backends.docker.engine import ApiError
from pytest_benchscale.backends.docker.node import DockerNode
from pytest_benchscale.backends.docker.shared_machine import kill_inside
from pytest_benchscale.errors import BenchscaleError

__all__ = ["MOST", "Successors"]

MOST = 20
"""How many containers of a lab are started before they are needed; each costs what an idle one does."""

_GONE = 404


@dataclasses.dataclass(eq=False)
class _Ahead:
    """A container that is started before it is needed, once another one was removed."""

    node: DockerNode
    former: DockerNode | None
    task: asyncio.Task[None] | None = None
    removal: asyncio.Task[None] | None = None  # of the former one, under way
    is_ready: bool = False


class Successors:
    """What takes the place of the containers of a lab's `nodes`, by name."""

    def __init__(self, containers: Containers, nodes: dict[str, DockerNode]) -> None:
        self._containers = containers
        self._nodes = nodes
        self._ahead: dict[str, _Ahead] = {}
        self._turn = asyncio.Lock()

    async def replace(self, name: str, *, paused: bool) -> DockerNode:
        """Put another container in the place of a node's own, whatever became of that; return what runs now.

        Raises:
            LabError: that failed; the node does not run, and can be led back again.
            BackendUnavailable: the daemon does not answer.
        """
        with failures.told(f"node {name!r} could not be reset", "reset", name):
            if (ahead := await self._running(name)) is not None:
                return await self._put(name, ahead, paused=paused)
            await self.drop(name)
            return await self._start_another(name, paused=paused)

    def prepare(self, name: str, former: DockerNode | None = None) -> None:
        """Have a container started at leisure, once the node's `former` one was removed.

        Not for a node with volumes: it is to find there what will be there by then.
        """
        node = self._nodes[name]
        is_wanted = node.is_plugged and not node.plan.spec.volumes and len(self._ahead) < MOST
        if former is None and not is_wanted:
            return
        ahead = self._ahead[name] = _Ahead(node.successor(), former)
        ahead.task = asyncio.ensure_future(self._start(ahead))

    async def drop(self, name: str) -> None:
        """Remove what would have taken a node's place, and what has had it.

        Raises:
            ApiError: the daemon refuses.
            BackendUnavailable: it does not answer.
        """
        if (ahead := self._ahead.get(name)) is None:
            return
        await _stop(ahead)
        if ahead.former is not None:
            await self._containers.remove(ahead.former)  # perhaps again: what is gone is no error
        await self._containers.remove(ahead.node)
        self._ahead.pop(name, None)

    async def end(self) -> None:
        """Start nothing any more; what is there is for others to remove, and nothing comes after this."""
        for ahead in self._ahead.values():
            await _stop(ahead)
            if ahead.node.creation is not None:
                await ahead.node.creation.outcome()
        self._ahead.clear()

    async def _start_another(self, name: str, *, paused: bool) -> DockerNode:
        """Create a container, once the node's own is gone."""
        await self._containers.remove(self._nodes[name], paused=paused)
        node = self._nodes[name] = self._nodes[name].successor()
        await self._containers.create_again(node)
        self.prepare(name)
        return node

    async def _put(self, name: str, node: DockerNode, *, paused: bool) -> DockerNode:
        """Have a running container be the node, once nothing runs in the node's own any more."""
        containers, former = self._containers, self._nodes[name]
        if paused or not await to_thread.run_sync(kill_inside, former.pid, str(former.container)):
            await containers.remove(former, paused=paused)
        self._nodes[name] = node
        # From here on the next reset clears up, whatever becomes of this one.
        self.prepare(name, former)
        await containers.rename(former, FORMER)
        await containers.rename(node)
        await containers.connect(node, again=True)
        return node

    async def _running(self, name: str) -> DockerNode | None:
        """Return what was started for a node; None: nothing was, or it does not run any more."""
        ahead = self._ahead.get(name)
        if ahead is None or not ahead.is_ready:
            return None
        try:
            known = await self._containers.inspect(str(ahead.node.container))
        except ApiError as error:
            if error.status != _GONE:
                raise
            return None
        state = known["State"]
        return ahead.node if state["Running"] and not state.get("Paused") else None

    async def _start(self, ahead: _Ahead) -> None:
        """Work through one node's part when the daemon has nothing else to do, one node at a time."""
        engine = self._containers.engine
        try:
            async with self._turn:
                await engine.leisure()
                if ahead.former is not None:
                    # Who has no time for the successor waits for the end of this: it is needed all the same.
                    ahead.removal = asyncio.ensure_future(self._containers.remove(ahead.former))
                    await asyncio.shield(ahead.removal)
                    ahead.former = None
                    await engine.leisure()
                await self._containers.create_ahead(ahead.node)
                ahead.is_ready = True
        except (ApiError, BenchscaleError):
            return  # then it is created when it is needed, and who needs it is told why it cannot be


async def _stop(ahead: _Ahead) -> None:
    if ahead.task is not None:
        ahead.task.cancel()
        await asyncio.wait([one for one in (ahead.task, ahead.removal) if one is not None])
        if ahead.removal is not None and not ahead.removal.cancelled():
            ahead.removal.exception()  # it was looked at
