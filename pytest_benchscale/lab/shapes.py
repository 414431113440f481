"""Partitions by name: which pairs of nodes are cut, from the nodes' names and a seed alone.

Groups cannot say every shape (in `majorities_ring` each node sees other ones), so a shape is the
set of its cut pairs; a pair that is not in it goes on talking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.arguments import did_you_mean
from pytest_benchscale.lab.chance import check_seed, choose, draw_seed, seeded, shuffled

__all__ = ["SHAPES", "Shape", "shape"]

Pair = frozenset[str]


@dataclass(frozen=True, slots=True)
class Shape:
    """A partition by name.

    `nodes` are those of the lab in file order. `cuts` are the unordered pairs that do not reach
    each other. `seed` decided what was left to chance, None where nothing was. `text` is the shape
    in words, seed included.
    """

    name: str
    nodes: tuple[str, ...]
    cuts: frozenset[Pair]
    seed: int | None
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The cut pairs in file order."""
        ordered = (
            (one, other)
            for position, one in enumerate(self.nodes)
            for other in self.nodes[position + 1 :]
        )
        return tuple(pair for pair in ordered if frozenset(pair) in self.cuts)

    def sees(self, node: str) -> tuple[str, ...]:
        """Return the nodes that a node still reaches, itself among them, in file order."""
        return tuple(
            other
            for other in self.nodes
            if other == node or frozenset({node, other}) not in self.cuts
        )


def shape(
    name: str, nodes: Sequence[str], *, seed: int | None = None, node: str | None = None
) -> Shape:
    """Return the partition of that name; `nodes` are all of the lab's, in file order.

    `isolate`: one node against the rest, `node` or one that chance chooses.
    `split_one`: one node that chance chooses against the rest.
    `bisect`: two halves, whose sizes differ by one at most.
    `majorities_ring`: every node sees a bare majority, and no two nodes the same one.
    `bridge`: two halves that do not see each other, and one node, `node` or a chosen one, sees both.

    Without a `seed`, one is drawn where there is chance; it is in the result.

    Raises:
        LabError: no such shape or node, too few nodes, or a `node` where chance decides.
    """
    __tracebackhide__ = True
    kind = _known(name)
    check_seed(seed, "partition")
    if len(nodes) < kind.least:
        raise LabError(
            f"{name} needs {kind.least} nodes or more: there are {len(nodes)}",
            step="partition",
            details=f"the nodes: {', '.join(nodes) or '(none)'}",
            resolution="give the topology more nodes, or choose another shape",
        )
    if node is not None:
        _check_node(name, kind, node, nodes)
    by_chance = node is None or name == "bridge"
    used = (draw_seed() if seed is None else seed) if by_chance else None
    cuts, words = kind.draw(seeded(used or 0), tuple(nodes), node)
    label = name if used is None else f"{name} (seed {used})"
    made = Shape(name, tuple(nodes), cuts, used, "")
    return Shape(name, made.nodes, cuts, used, f"{label}: {words(made)}")


Words = Callable[[Shape], str]
Draw = Callable[[Random, tuple[str, ...], str | None], tuple[frozenset[Pair], Words]]


def _one_against_the_rest(
    rng: Random, nodes: tuple[str, ...], node: str | None
) -> tuple[frozenset[Pair], Words]:
    alone = choose(rng, nodes) if node is None else node
    rest = [other for other in nodes if other != alone]
    return _between([alone], rest), lambda _: _sides([alone], rest)


def _bisect(
    rng: Random, nodes: tuple[str, ...], _node: str | None
) -> tuple[frozenset[Pair], Words]:
    order = shuffled(rng, nodes)
    middle = len(order) // 2
    one, other = _in_file_order(nodes, order[:middle]), _in_file_order(nodes, order[middle:])
    return _between(one, other), lambda _: _sides(one, other)


def _bridge(rng: Random, nodes: tuple[str, ...], node: str | None) -> tuple[frozenset[Pair], Words]:
    between = choose(rng, nodes) if node is None else node
    order = shuffled(rng, [other for other in nodes if other != between])
    middle = len(order) // 2
    one, other = _in_file_order(nodes, order[:middle]), _in_file_order(nodes, order[middle:])
    return _between(one, other), lambda _: f"{_sides(one, other)}, and {between} sees both"


def _majorities_ring(
    rng: Random, nodes: tuple[str, ...], _node: str | None
) -> tuple[frozenset[Pair], Words]:
    """The nodes in a ring, each sees as many neighbours to the left as to the right.

    A bare majority of an even size leaves one to be seen beyond: the node across the ring. With an
    odd number of nodes nobody is just across, and the one in the middle is taken twice.
    """
    ring = shuffled(rng, nodes)
    count = len(ring)
    majority = count // 2 + 1
    steps = (majority - 1) // 2
    seen = {
        frozenset({ring[i], ring[(i + step) % count]})
        for i in range(count)
        for step in range(1, steps + 1)
    }
    if majority % 2 == 0:
        across = count // 2
        seen |= {frozenset({ring[i], ring[i + across]}) for i in range(count - across)}
    cuts = _between(nodes, nodes) - seen
    return cuts, lambda made: "; ".join(f"{each} sees {_others(made, each)}" for each in made.nodes)


class _Kind(NamedTuple):
    least: int  # nodes
    draw: Draw
    takes_node: bool = False


SHAPES = {
    "isolate": _Kind(2, _one_against_the_rest, takes_node=True),
    "split_one": _Kind(2, _one_against_the_rest),
    "bisect": _Kind(2, _bisect),
    "majorities_ring": _Kind(3, _majorities_ring),
    "bridge": _Kind(3, _bridge, takes_node=True),
}
"""The shapes by name."""


def _known(name: str) -> _Kind:
    __tracebackhide__ = True
    if name in SHAPES:
        return SHAPES[name]
    raise LabError(
        f"no shape of a partition is called {name!r}{did_you_mean(name, SHAPES)}",
        step="partition",
        details=f"the shapes: {', '.join(SHAPES)}",
        resolution="name one of these, or give groups of nodes: partition({'a'}, {'b', 'c'})",
    )


def _check_node(name: str, kind: _Kind, node: str, nodes: Sequence[str]) -> None:
    __tracebackhide__ = True
    if not kind.takes_node:
        raise LabError(
            f"{name} takes no node: chance decides",
            node=node,
            step="partition",
            resolution=f"partition('isolate', node={node!r}) cuts off this one",
        )
    if node not in nodes:
        raise LabError(
            f"there is no node {node!r} for {name}{did_you_mean(node, nodes)}",
            node=node,
            step="partition",
            details=f"the nodes: {', '.join(nodes)}",
        )


def _between(ones: Iterable[str], others: Sequence[str]) -> frozenset[Pair]:
    return frozenset(frozenset({one, other}) for one in ones for other in others if one != other)


def _in_file_order(nodes: Sequence[str], some: Sequence[str]) -> list[str]:
    return [node for node in nodes if node in some]


def _sides(one: Sequence[str], other: Sequence[str]) -> str:
    return f"{', '.join(one)} | {', '.join(other)}"


def _others(made: Shape, node: str) -> str:
    return ", ".join(other for other in made.sees(node) if other != node)
