"""What shall act on the links of a lab: what its file declares, what was set since, and faults on top."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pytest_benchscale.backends.base import InterfacePlan
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.network.link import NOTHING, LinkState, Selection, Senders
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.conditions import Figures

__all__ = ["Attachment", "Cut", "LinkWishes", "Stated", "Worse"]

Stated = Mapping[str, float | str]
"""Figures by field name, as far as they are stated."""


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


class LinkWishes:
    """Knows what shall act on each link; nothing, while `withdrawn`.

    `cuts` and `worse` are the faults, in the order in which they were made.
    """

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        self._machines = machines
        self._set: dict[Attachment, Stated] = {}  # in place of what is declared
        self.cuts: dict[Cut, None] = {}
        self.worse: dict[Worse, None] = {}
        self.withdrawn = False

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
        if self.withdrawn:
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
