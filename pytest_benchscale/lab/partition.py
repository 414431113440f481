"""Networks cut between nodes, and the proof that they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import FaultNotEffective, FaultNotHealed, LabError
from pytest_benchscale.lab.arguments import did_you_mean
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.link_wishes import Cut
from pytest_benchscale.lab.shapes import SHAPES, shape
from pytest_benchscale.lab.witness import A_MOMENT, LONG, Pair, Witness

__all__ = ["Group", "Partition", "cut_of", "pairs_of"]

Group = Collection[str]

_MOST_PAIRS = (
    300  # are measured: the kernel remembers about 1,000 neighbours, of all nodes together
)


class Partition(Fault):
    """Nothing that the first node of a pair sends reaches the second; see `Lab.partition`."""

    def __init__(
        self,
        states: LinkStates,
        witness: Witness | None,
        what: str,
        pairs: Sequence[Pair],
        network: str | None,
    ) -> None:
        super().__init__(states.context, what)
        self.pairs = tuple(pairs)
        self.network = network
        self._states = states
        self._witness = witness
        self._cut = cut_of(pairs, network)
        self._reached: list[Pair] = []

    async def _make(self) -> None:
        self._context.require(Capability.PARTITIONS)
        self._states.check_network(self.network, self.pairs)
        if self._witness is not None:
            await self._see_what_is_there(self._witness)
        self._states.cuts[self._cut] = None
        await self._states.apply(self._cut.deaf)
        if self._witness is not None:
            await self._see_that_it_is_cut(self._witness)

    async def _take_back(self) -> None:
        self._states.cuts.pop(self._cut, None)
        await self._states.apply(self._cut.deaf)
        if self._witness is not None and self._reached:
            await self._see_that_it_is_healed(self._witness)

    async def _see_what_is_there(self, witness: Witness) -> None:
        """Remember which of the pairs reach each other; a cut of none would prove nothing."""
        open_pairs = _sample(
            [pair for pair in self.pairs if not self._states.is_cut(pair, self.network)]
        )
        if not open_pairs:
            return  # other faults have cut all of it
        matrix = await witness.until_reached(open_pairs, self.network, A_MOMENT)
        self._reached = [pair for pair in open_pairs if witness.reached(matrix, pair)]
        if not self._reached:
            raise FaultNotEffective(
                f"there is nothing to cut: of {self.what}, no node reached any other before",
                step="partition",
                details=str(matrix),
                resolution="see to it that the nodes are up and reach each other, or say attest=False",
            )

    async def _see_that_it_is_cut(self, witness: Witness) -> None:
        if not self._reached:
            return
        matrix = await witness.measure(self._reached, self.network, count=3)
        if leaks := [pair for pair in self._reached if witness.reached(matrix, pair)]:
            raise FaultNotEffective(
                f"{self.what} has no effect: {_words(leaks)} still get through",
                step="partition",
                details=str(matrix),
                resolution="is there another way between them, such as a network that was not cut?",
            )

    async def _see_that_it_is_healed(self, witness: Witness) -> None:
        due = [pair for pair in self._reached if not self._states.is_cut(pair, self.network)]
        due = [pair for pair in due if witness.is_up(pair[0]) and witness.is_up(pair[1])]
        if not due:
            return
        matrix = await witness.until_reached(due, self.network, LONG)
        left = [pair for pair in due if witness.stays_away(matrix, pair)]
        if left:
            raise FaultNotHealed(
                f"{self.what} was taken back, and {_words(left)} do not get through",
                step="partition",
                details=str(matrix),
            )


def cut_of(pairs: Iterable[Pair], network: str | None) -> Cut:
    """Return the cut between pairs of sender and receiver."""
    deaf: dict[str, list[str]] = defaultdict(list)
    for sender, receiver in pairs:
        deaf[receiver].append(sender)
    return Cut(deaf, network)


def pairs_of(
    nodes: Sequence[str],
    groups: Sequence[str | Group],
    *,
    one_way: bool,
    overlapping: bool,
    seed: int | None,
    node: str | None,
) -> tuple[list[Pair], str]:
    """Return who shall not reach whom, as sender and receiver, and that in words.

    Raises:
        LabError: the groups are none, or not what was meant.
    """
    if len(groups) == 1 and isinstance(groups[0], str):
        if one_way or overlapping:
            raise _wrong("one_way and overlapping are said of groups, not of a shape")
        drawn = shape(groups[0], nodes, seed=seed, node=node)
        return [way for one, other in drawn.pairs for way in ((one, other), (other, one))], str(
            drawn
        )
    if seed is not None or node is not None:
        raise _wrong("seed and node are said of a shape, not of groups")
    sets = [_group(nodes, group) for group in groups]
    if len(sets) < 2:
        raise _wrong(
            "a partition has two groups or more",
            "name the other side, too: partition({'a'}, {'b', 'c'}), or partition('isolate', node='a')",
        )
    together = _together(sets, overlapping=overlapping)
    cut = [
        (one, other)
        for first, second in combinations(sets, 2)
        for one in first
        for other in second
        if one != other and frozenset({one, other}) not in together
    ]
    pairs = list(dict.fromkeys(cut if one_way else [way for p in cut for way in (p, p[::-1])]))
    if not pairs:
        raise _wrong("these groups cut nothing: every node shares one with every other")
    arrow = " -x-> " if one_way else " | "
    return pairs, "partition " + arrow.join(", ".join(group) for group in sets)


def _group(nodes: Sequence[str], group: str | Group) -> list[str]:
    """Return a group in file order."""
    if isinstance(group, str):
        raise _wrong(
            f"{group!r} is no group of nodes",
            f"a group is a set of names, {{{group!r}}}; alone, a name is one of a shape: "
            + ", ".join(SHAPES),
        )
    if not group:
        raise _wrong("a group of a partition is empty")
    for name in group:
        if name not in nodes:
            raise LabError(
                f"there is no node {name!r} for a partition{did_you_mean(name, nodes)}",
                step="partition",
                details=f"the nodes: {', '.join(nodes)}",
            )
    return [name for name in nodes if name in group]


def _together(sets: Sequence[Sequence[str]], *, overlapping: bool) -> set[frozenset[str]]:
    """Return the pairs that share a group."""
    seen: dict[str, int] = {}
    for group in sets:
        for name in group:
            seen[name] = seen.get(name, 0) + 1
    twice = [name for name, count in seen.items() if count > 1]
    if twice and not overlapping:
        raise _wrong(
            f"the groups of a partition overlap: {', '.join(map(repr, twice))} is in several",
            "say overlapping=True if these nodes shall go on talking to all their groups",
        )
    return {frozenset(pair) for group in sets for pair in combinations(group, 2)}


def _wrong(brief: str, resolution: str | None = None) -> LabError:
    return LabError(brief, step="partition", resolution=resolution)


def _sample(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs; of very many a part that has every receiver, at whose end the cut is made."""
    if len(pairs) <= _MOST_PAIRS:
        return list(pairs)
    of_receiver: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        of_receiver[pair[1]].append(pair)
    share = max(1, _MOST_PAIRS // len(of_receiver))
    return [
        pair
        for theirs in of_receiver.values()
        for pair in theirs[:: max(1, len(theirs) // share)][:share]
    ]


def _words(pairs: Sequence[Pair]) -> str:
    shown = ", ".join(f"{one} -> {other}" for one, other in pairs[:5])
    return shown + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")
