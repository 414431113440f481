"""The faults of one lab: what makes them, and what takes them all back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.lab.arguments import did_you_mean
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.impairment import Impairment, require_conditions, stated_of
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.link_wishes import Attachment, Stated, Worse
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.partition import Group, Partition, pairs_of
from pytest_benchscale.lab.witness import Witness
from pytest_benchscale.topology.conditions import Figures
from pytest_benchscale.topology.model import Topology

__all__ = ["Faults", "Standing"]


class Standing(NamedTuple):
    """What acts on a lab beside what its file declares: faults, and conditions that were set."""

    faults: frozenset[Fault]
    settings: Mapping[Attachment, Stated]


class Faults:
    """Makes faults; each is a block that lasts as long as the fault. `Lab` and `Node` say what they take."""

    def __init__(
        self, context: LabContext, topology: Topology, machines: Mapping[str, Machine]
    ) -> None:
        self.links = LinkStates(context, machines)
        self._context = context
        self._topology = topology
        self._machines = machines
        self._witness = Witness(context, machines)

    def partition(
        self,
        *groups: str | Group,
        one_way: bool,
        overlapping: bool,
        network: str | None,
        seed: int | None,
        node: str | None,
        attest: bool,
    ) -> Partition:
        """Return a partition that was not made yet."""
        __tracebackhide__ = True
        self._context.require(Capability.PARTITIONS)
        pairs, what = pairs_of(
            [*self._machines],
            groups,
            one_way=one_way,
            overlapping=overlapping,
            seed=seed,
            node=node,
        )
        what += f" on network {network!r}" if network is not None else ""
        return Partition(self.links, self._witness if attest else None, what, pairs, network)

    def impair(
        self,
        node: str,
        *,
        network: str | None,
        preset: str | None,
        attest: bool,
        figures: Mapping[str, object],
    ) -> Impairment:
        """Return worse conditions of what a node sends; not applied yet."""
        __tracebackhide__ = True
        stated = self._stated(preset, figures)
        what = f"{node}: {_words(preset, figures)}" + (
            f" on network {network!r}" if network else ""
        )
        worse = Worse(node, stated, network)
        return Impairment(self.links, self._witness if attest else None, what, [worse])

    def impair_between(
        self,
        one: str,
        other: str,
        *,
        network: str | None,
        preset: str | None,
        attest: bool,
        figures: Mapping[str, object],
    ) -> Impairment:
        """Return worse conditions of what two nodes send to each other; not applied yet."""
        __tracebackhide__ = True
        stated = self._stated(preset, figures)
        for name in (one, other):
            if name not in self._machines:
                hint = did_you_mean(name, self._machines)
                raise LabError(f"there is no node {name!r}{hint}", step="network conditions")
        if one == other:
            raise LabError(f"impair takes two nodes, not {one!r} twice", step="network conditions")
        what = f"between {one} and {other}: {_words(preset, figures)}" + (
            f" on network {network!r}" if network else ""
        )
        worse = [Worse(one, stated, network, other), Worse(other, stated, network, one)]
        return Impairment(self.links, self._witness if attest else None, what, worse)

    async def set_conditions(
        self,
        node: str,
        *,
        network: str | None,
        preset: str | None,
        figures: Mapping[str, object],
    ) -> None:
        """Lay figures over what is declared for a node's links; none: what is declared counts again."""
        __tracebackhide__ = True
        require_conditions(self._context)
        self._machines[node].existing("set_conditions")
        stated = stated_of(self._topology, preset, figures)
        for link in self.links.on(network, node):
            self.links.set(link, None)
            wanted = {**self.links.standing(link), **stated}
            await self.links.require(Figures.model_validate(wanted))
            if stated:
                self.links.set(link, wanted)
        await self.links.apply([node])

    def standing(self) -> Standing:
        """Return what acts on the lab now beside what its file declares."""
        return Standing(frozenset(self._context.standing), self.links.settings())

    async def heal(self, kept: Standing | None = None) -> list[str]:
        """Take back every fault, the newest first, and what was set; return what was there, in words.

        What is `kept` stays as it is.

        Raises:
            LabError: a fault could not be taken back; the others were.
        """
        __tracebackhide__ = True
        kept = kept or Standing(frozenset(), {})
        standing = [fault for fault in [*self._context.standing][::-1] if fault not in kept.faults]
        errors: list[BenchscaleError] = []
        for fault in standing:
            try:
                await fault.finish()
            except BenchscaleError as error:
                errors.append(error)
        words = [fault.what for fault in standing]
        if changed := self.links.restore(kept.settings):
            words += [f"conditions of {node}" for node in changed]
            try:
                await self.links.apply(changed)
            except BenchscaleError as error:
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"and also: {other}")
            raise errors[0]
        return words

    def _stated(
        self, preset: str | None, figures: Mapping[str, object]
    ) -> Mapping[str, float | str]:
        __tracebackhide__ = True
        require_conditions(self._context)
        stated = stated_of(self._topology, preset, figures)
        if not stated:
            raise LabError(
                "impair needs a figure or a preset",
                step="network conditions",
                resolution="such as impair(latency_ms=200), or impair(preset='satellite')",
            )
        return stated


def _words(preset: str | None, figures: Mapping[str, object]) -> str:
    stated = [f"preset {preset}"] if preset else []
    return ", ".join(stated + [f"{name}={value}" for name, value in figures.items()])
