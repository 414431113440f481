"""What acts on the links of a lab: what its file declares, what was set since, and faults on top."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from pytest_benchscale.backends.base import InterfacePlan, NodeStatus
from pytest_benchscale.backends.kernel import NETEM_ADVICE
from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, LabError
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.network.link import (
    NOTHING,
    Conduit,
    Link,
    LinkState,
    Selection,
    Senders,
)
from pytest_benchscale.network.render import needs_netem, removal, steps
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.conditions import Figures

__all__ = ["Attachment", "Cut", "LinkStates", "Stated", "Worse"]

Stated = Mapping[str, float | str]
"""Figures by field name, as far as they are stated."""

APPLY_DEADLINE = 30.0  # seconds, for what is changed at once
_UNDO_SECONDS = 5.0  # for each step of taking away what is left of a change that failed


class Attachment(NamedTuple):
    """One node's link to one network."""

    node: str
    network: str


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Who does not hear whom: by receiver, the senders; on one network, or (None) at all."""

    deaf: Mapping[str, Collection[str]]
    network: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Worse:
    """Figures over those that are there, for what a node sends: on one network or all, to one node or all."""

    node: str
    stated: Stated
    network: str | None = None
    towards: str | None = None


class _Due(NamedTuple):
    attachment: Attachment
    link: Link
    state: LinkState


class LinkStates:
    """Knows what shall act on each link, and what does; `apply` makes the one the other.

    `cuts` and `worse` are the faults, in the order in which they were made. Lives in the portal.
    """

    def __init__(self, context: LabContext, machines: Mapping[str, Machine]) -> None:
        self.context = self._context = context
        self._machines = machines
        self._set: dict[Attachment, Stated] = {}  # in place of what is declared
        self._links: dict[str, Mapping[str, Link]] = {}
        self._applied: dict[Attachment, LinkState] = {}
        self._turn = asyncio.Lock()
        self._beginning: dict[str, None] = {}  # nodes that wait for their turn in `begin`
        self._netem: bool | None = None
        self._withdrawn = False
        self.cuts: dict[Cut, None] = {}
        self.worse: dict[Worse, None] = {}

    def attachments(self, node: str) -> dict[str, InterfacePlan]:
        """Return a node's links as they were planned, by network."""
        plan = self._machines[node].plan
        return {interface.network: interface for interface in plan.interfaces} if plan else {}

    def on(self, network: str | None, node: str) -> list[Attachment]:
        """Return a node's links: the one to a network, or (None) all.

        Raises:
            LabError: the node is not on that network.
        """
        links = self.attachments(node)
        if network is None:
            return [Attachment(node, name) for name in links]
        if network not in links:
            raise LabError(
                f"node {node!r} is not on a network {network!r}",
                node=node,
                step="network conditions",
                details=f"its networks: {', '.join(links) or '(none)'}",
            )
        return [Attachment(node, network)]

    def shared(self, one: str, other: str) -> list[str]:
        """Return the networks that both nodes are on, in the order of the first's."""
        theirs = self.attachments(other)
        return [network for network in self.attachments(one) if network in theirs]

    def neighbours(self, link: Attachment) -> list[str]:
        """Return the other nodes on a link's network, in file order."""
        return [
            node
            for node in self._machines
            if node != link.node and link.network in self.attachments(node)
        ]

    def check_network(self, network: str | None, pairs: Iterable[tuple[str, str]]) -> None:
        """Check that a network has both nodes of any pair.

        Raises:
            LabError: it has not, so that nothing could be cut there.
        """
        if network is None:
            return
        if not any(
            network in self.attachments(one) and network in self.attachments(other)
            for one, other in pairs
        ):
            known = dict.fromkeys(
                name for node in self._machines for name in self.attachments(node)
            )
            raise LabError(
                f"there is nothing to cut on network {network!r}: it does not have nodes of both sides",
                step="partition",
                details=f"the networks: {', '.join(known)}",
            )

    def is_cut(self, pair: tuple[str, str], network: str | None) -> bool:
        """Return whether a fault cuts the way from one node to another on a network, or (None) on any."""
        sender, receiver = pair
        return any(
            sender in cut.deaf.get(receiver, ())
            and (network is None or cut.network in {None, network})
            for cut in self.cuts
        )

    def set(self, attachment: Attachment, stated: Stated | None) -> None:
        """Replace what was declared for a link; None: it counts again."""
        if stated is None:
            self._set.pop(attachment, None)
        else:
            self._set[attachment] = stated

    def settings(self) -> Mapping[Attachment, Stated]:
        """Return what was set, by link."""
        return dict(self._set)

    def restore(self, settings: Mapping[Attachment, Stated]) -> list[str]:
        """Set what was set once; return the nodes for which that is a change."""
        links = {**self._set, **settings}
        changed = [one for one in links if self._set.get(one) != settings.get(one)]
        self._set = dict(settings)
        return list(dict.fromkeys(one.node for one in changed))

    def standing(self, attachment: Attachment) -> Stated:
        """Return the figures of a link without any fault."""
        if (stated := self._set.get(attachment)) is not None:
            return stated
        interface = self.attachments(attachment.node)[attachment.network]
        return interface.conditions.stated() if interface.conditions else {}

    def figures(self, attachment: Attachment, towards: str | None = None) -> Figures:
        """Return what acts on what the node sends by a link: to everybody, or to a certain node."""
        merged = dict(self.standing(attachment))
        for worse in self.worse:
            if (
                worse.node == attachment.node
                and worse.network in {None, attachment.network}
                and worse.towards in {None, towards}
            ):
                merged.update(worse.stated)
        return Figures.model_validate(merged)

    def state(self, attachment: Attachment) -> LinkState:
        """Return what shall act on a link."""
        if self._withdrawn:
            return NOTHING
        figures = self.figures(attachment)
        chosen = [
            worse.towards
            for worse in self.worse
            if worse.node == attachment.node and worse.network in {None, attachment.network}
        ]
        selections = (
            Selection(self._addresses(node), self.figures(attachment, node))
            for node in dict.fromkeys(chosen)
            if node is not None
        )
        return LinkState(
            figures=None if figures.is_noop else figures,
            selections=tuple(one for one in selections if one.towards),
            deaf_to=self._deaf_to(attachment),
        )

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
        self._withdrawn = True
        await self.apply()

    async def resume(self) -> None:
        """Undo `withdraw`."""
        self._withdrawn = False
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

    def _deaf_to(self, attachment: Attachment) -> Senders:
        """Return whom a node shall not hear by a link."""
        macs: set[str] = set()
        addresses: set[IpAddress] = set()
        for cut in self.cuts:
            if cut.network not in {None, attachment.network}:
                continue
            for sender in cut.deaf.get(attachment.node, ()):
                theirs = self.attachments(sender)
                if (neighbour := theirs.get(attachment.network)) is not None:
                    macs.add(neighbour.mac)
                    addresses.add(neighbour.address.ip)
                if cut.network is None:
                    addresses |= self._addresses(sender)
        return Senders(frozenset(macs), frozenset(addresses))

    def _addresses(self, node: str) -> frozenset[IpAddress]:
        planned = {interface.address.ip for interface in self.attachments(node).values()}
        info = self._machines[node].info  # a machine that was there before has addresses of its own
        return frozenset(planned | set(info.addresses.values() if info else ()))
