"""What a lab measures and does between its nodes: methods of `Lab` and of its twin without `await`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import TYPE_CHECKING, Unpack

from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault import Fault, faulty
from pytest_benchscale.lab.fault_log import FaultLog
from pytest_benchscale.lab.faults import Faults, Standing
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.partition import Group
from pytest_benchscale.lab.portal import Portal, blocking, on_portal
from pytest_benchscale.lab.probing import ProbeOptions, measure_pairs
from pytest_benchscale.network.matrix import Matrix, Reachability

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab

__all__ = ["NetworkFaults", "SyncNetworkFaults"]


class NetworkFaults:
    """Who reaches whom, and faults that change it."""

    _context: LabContext
    _portal: Portal
    _faults: Faults
    _machines: Mapping[str, Machine]

    @on_portal
    async def probe(self, **options: Unpack[ProbeOptions]) -> Matrix:
        """Measure reachability, round trips and loss between all pairs of nodes; see `ProbeOptions`.

        Done as soon as everything is answered. A node that is stopped or dead reaches nobody; a paused one
        still answers, since its kernel does, but for a virtual machine's, which is paused with it.

        Raises:
            LabError: the lab is not up, has no such network, or a node lacks what it takes.
            ValueError: a figure makes no sense.
        """
        __tracebackhide__ = True
        pairs = permutations(self._machines, 2)
        return await measure_pairs(self._context, self._machines, pairs, **options)

    async def reachability(self, *, network: str | None = None) -> Reachability:
        """Return who reaches whom, each way by itself: each node with those that get what it sends.

        For `assert await lab.reachability() == {"a": ["b"], "b": []}`; nodes are in the order of the file.
        """
        __tracebackhide__ = True
        return (await self.probe(network=network)).reachability()

    @property
    def faults(self) -> FaultLog:
        """The faults that were made, oldest first; `active` are those that are there now."""
        return self._context.faults

    def partition(
        self,
        *groups: str | Group,
        one_way: bool = False,
        overlapping: bool = False,
        network: str | None = None,
        seed: int | None = None,
        node: str | None = None,
        attest: bool = True,
    ) -> Fault:
        """Cut the networks between groups of nodes for the duration of an `async with` block.

        A node in no group goes on talking to all; with `overlapping`, a node in several groups talks to each.
        With `one_way`, only what an earlier group sends to a later one is cut. In place of groups, the name
        of a shape: "isolate" (`node`, or one by chance), "split_one", "bisect", "majorities_ring",
        "bridge"; `seed` decides what is left to chance. On one `network`, or (None) on all ways there are.
        Commands and files still get to every node.

        Raises:
            LabError: the groups, the shape or the network make no sense.
            FaultNotEffective: on entering, when measuring shows that something gets through; not with
                `attest=False`.
            FaultNotHealed: on leaving, when it shows that nothing does.
        """
        __tracebackhide__ = True
        return self._faults.partition(
            *groups,
            one_way=one_way,
            overlapping=overlapping,
            network=network,
            seed=seed,
            node=node,
            attest=attest,
        )

    def impair(
        self,
        /,
        one: str,
        other: str,
        *,
        network: str | None = None,
        preset: str | None = None,
        attest: bool = True,
        **figures: float | str,
    ) -> Fault:
        """Worsen what two nodes send to each other, and nothing else; otherwise as `Node.impair`."""
        __tracebackhide__ = True
        return self._faults.impair_between(
            one, other, network=network, preset=preset, attest=attest, figures=figures
        )

    @on_portal
    async def heal(self) -> list[str]:
        """Take back every fault, and what `set_conditions` has set; return what there was, in words.

        Raises:
            LabError: a fault could not be taken back; the others were.
        """
        __tracebackhide__ = True
        return await self._faults.heal()

    def standing(self) -> Standing:
        """Return what acts on the lab beside what its file declares."""
        return self._faults.standing()

    @on_portal
    async def heal_but(self, kept: Standing) -> list[str]:
        """Do as `heal`, but leave alone what was there already."""
        __tracebackhide__ = True
        return await self._faults.heal(kept)


class SyncNetworkFaults:
    """The same without `await`: faults are blocks of `with`."""

    _wrapped: Lab
    _portal: Portal

    @property
    def faults(self) -> FaultLog:
        """The faults that were made, oldest first."""
        return self._wrapped.faults

    probe = blocking(NetworkFaults.probe)
    reachability = blocking(NetworkFaults.reachability)
    partition = faulty(NetworkFaults.partition)
    impair = faulty(NetworkFaults.impair)
    heal = blocking(NetworkFaults.heal)
