"""Making what acts on the links of a lab what shall act on them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import anyio

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.backends.kernel import NETEM_ADVICE
from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, LabError
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.link_wishes import Attachment, LinkWishes
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.network.link import NOTHING, Conduit, Link, LinkState
from pytest_benchscale.network.render import needs_netem, removal, steps
from pytest_benchscale.topology.conditions import Figures

__all__ = ["LinkStates"]

APPLY_DEADLINE = 30.0  # seconds, for what is changed at once
_UNDO_SECONDS = 5.0  # for each step of taking away what is left of a change that failed


class _Due(NamedTuple):
    attachment: Attachment
    link: Link
    state: LinkState


class LinkStates(LinkWishes):
    """Knows what does act on each link, too; `apply` makes it what shall act. Lives in the portal."""

    def __init__(self, context: LabContext, machines: Mapping[str, Machine]) -> None:
        super().__init__(machines)
        self.context = self._context = context
        self._links: dict[str, Mapping[str, Link]] = {}
        self._applied: dict[Attachment, LinkState] = {}
        self._turn = asyncio.Lock()
        self._beginning: dict[str, None] = {}  # nodes that wait for their turn in `begin`
        self._netem: bool | None = None

    async def require(self, *wanted: Figures) -> None:
        """Check that the kernel can do what the figures say.

        Raises:
            BackendUnavailable: they need sch_netem, which it does not have.
        """
        backend = self._context.backend
        if not any(map(needs_netem, wanted)):
            return
        if self._netem is None:
            self._netem = await self._context.ask(
                backend.has_netem, deadline=APPLY_DEADLINE, node=None, step="network conditions"
            )
        if not self._netem:
            raise BackendUnavailable(
                backend.name,
                "latency, jitter, loss and the like need sch_netem, which the kernel of its nodes' links "
                "does not have",
                resolution=NETEM_ADVICE,
            )

    async def begin(self, node: str) -> None:
        """Apply what is due to a node that was created or started; its links may be new ones."""
        self._links.pop(node, None)
        if not self._context.backend.links_outlive_nodes:
            for attachment in [one for one in self._applied if one.node == node]:
                del self._applied[attachment]
        self._beginning[node] = None
        async with self._turn:
            together, self._beginning = self._beginning, {}
            if len(together) > 1:
                # At once for all who wait, since each change costs a way to the kernel. For whom it failed,
                # it is tried again in that one's own turn. A caller that gives up does not end it for others.
                with anyio.CancelScope(shield=True), suppress(BenchscaleError):
                    await self._apply(together)
            await self._apply([node])

    async def withdraw(self) -> None:
        """Take away everything that acts, also what is declared, until `resume`."""
        self.withdrawn = True
        await self.apply()

    async def resume(self) -> None:
        """Undo `withdraw`."""
        self.withdrawn = False
        await self.apply()

    async def apply(self, nodes: Iterable[str] | None = None) -> None:
        """Make what acts on the links of the nodes (all) what shall act.

        A node that is not running is left out: its turn comes when it is started.

        Raises:
            LabError: the kernel refused something, or could not be reached; the rest was done.
        """
        async with self._turn:
            await self._apply(self._machines if nodes is None else nodes)

    async def _apply(self, nodes: Iterable[str]) -> None:
        """Do what `apply` does, for who has the turn."""
        due: dict[Conduit, list[_Due]] = defaultdict(list)
        failures: list[BenchscaleError] = []
        asked = list(nodes)
        answers = await asyncio.gather(*map(self._due, asked), return_exceptions=True)
        for node, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BenchscaleError):
                await self._tell(answer, [node], failures)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                for one in answer:
                    due[one.link.conduit].append(one)
        async with anyio.create_task_group() as group:
            for conduit, changes in due.items():
                group.start_soon(self._change, conduit, changes, failures)
        if failures:
            for other in failures[1:]:
                failures[0].add_note(f"and also: {other.brief}")
            raise failures[0]

    async def _due(self, node: str) -> list[_Due]:
        """Return the changes of a node's links that are due."""
        states = {
            attachment: self.state(attachment)
            for attachment in (Attachment(node, network) for network in self.attachments(node))
        }
        wanted = {
            attachment: state
            for attachment, state in states.items()
            if state != self._applied.get(attachment, NOTHING)
        }
        if not wanted or not self._is_reachable(node):
            return []
        links = await self._links_of(node)
        missing = [attachment.network for attachment in wanted if attachment.network not in links]
        if missing:
            raise LabError(
                f"nothing can be applied to the link of node {node!r} to network {missing[0]!r}",
                node=node,
                step="network conditions",
                details=f"backend {self._context.backend.name!r} does not know its device",
            )
        return [
            _Due(attachment, links[attachment.network], state)
            for attachment, state in wanted.items()
        ]

    def _is_reachable(self, node: str) -> bool:
        machine = self._machines[node]
        if machine.info is None:
            return False
        if self._context.backend.links_outlive_nodes:
            return True
        return machine.info.status in {NodeStatus.RUNNING, NodeStatus.PAUSED}

    async def _links_of(self, node: str) -> Mapping[str, Link]:
        if node not in self._links:
            self._links[node] = await self._context.ask(
                lambda: self._context.backend.links(node),
                deadline=APPLY_DEADLINE,
                node=node,
                step="network conditions",
            )
        return self._links[node]

    async def _change(
        self, conduit: Conduit, changes: list[_Due], failures: list[BenchscaleError]
    ) -> None:
        """Carry out the changes of links that are reached the same way."""
        wanted = [
            step
            for attachment, link, state in changes
            for step in steps(link, self._applied.get(attachment, NOTHING), state)
        ]
        nodes = list(dict.fromkeys(change.attachment.node for change in changes))
        try:
            with anyio.fail_after(self._context.scaled(APPLY_DEADLINE)):
                await conduit.change(wanted)
        except (OSError, TimeoutError) as exc:
            reason = str(exc) or f"not done after {self._context.scaled(APPLY_DEADLINE):g} s"
            error: BenchscaleError = LabError(
                f"what acts on the links of {', '.join(map(repr, nodes))} could not be changed: {reason}",
                node=nodes[0],
                step="network conditions",
            )
            await self._begin_anew(conduit, changes)
            await self._tell(error, nodes, failures)
        except BenchscaleError as exc:
            await self._tell(exc, nodes, failures)
        else:
            for attachment, _, state in changes:
                self._applied[attachment] = state

    async def _begin_anew(self, conduit: Conduit, changes: list[_Due]) -> None:
        """Take away what is left of a change that failed, so that it is known what there is: nothing."""
        for attachment, link, state in changes:
            before = self._applied.pop(attachment, NOTHING)
            if before == NOTHING:  # then the conduit has seen to it
                continue
            for step in removal(link, before, state):
                with suppress(OSError, BenchscaleError), anyio.move_on_after(_UNDO_SECONDS):
                    await conduit.change([step])

    async def _tell(
        self, error: BenchscaleError, nodes: Sequence[str], failures: list[BenchscaleError]
    ) -> None:
        """Keep an error, unless it is that the nodes have ended meanwhile: then their links have, too."""
        for node in nodes:
            machine = self._machines[node]
            alive = machine.info is not None and (await machine.refresh()).status in {
                NodeStatus.RUNNING,
                NodeStatus.PAUSED,
            }
            if alive:
                failures.append(error)
                return
