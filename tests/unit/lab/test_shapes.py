"""Partitions by name are decided by the nodes' names and the seed, and have the shape they promise."""

from __future__ import annotations

import itertools

import pytest

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.shapes import SHAPES, Shape, shape


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def sides(made: Shape) -> set[frozenset[str]]:
    return {frozenset(made.sees(node)) for node in made.nodes}


COUNTS = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 23, 50]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", range(5))
def test_bisect_makes_two_halves_that_differ_by_one_at_most(count: int, seed: int) -> None:
    one, other = sides(shape("bisect", names(count), seed=seed))
    assert not one & other
    assert one | other == set(names(count))
    assert abs(len(one) - len(other)) <= 1


@pytest.mark.parametrize("name", ["isolate", "split_one"])
@pytest.mark.parametrize("count", COUNTS)
def test_one_node_is_alone_and_the_rest_stay_together(name: str, count: int) -> None:
    one, other = sorted(sides(shape(name, names(count), seed=3)), key=len)
    assert len(one) == 1
    assert other == set(names(count)) - one


def test_isolate_cuts_off_the_node_that_is_named() -> None:
    made = shape("isolate", names(4), node="n2")
    assert made.sees("n2") == ("n2",)
    assert made.seed is None
    assert str(made) == "isolate: n2 | n0, n1, n3"


@pytest.mark.parametrize("count", [count for count in COUNTS if count > 2])
@pytest.mark.parametrize("seed", range(5))
def test_in_a_majorities_ring_all_see_a_bare_majority_and_no_two_the_same(
    count: int, seed: int
) -> None:
    made = shape("majorities_ring", names(count), seed=seed)
    seen = [frozenset(made.sees(node)) for node in made.nodes]
    majority = count // 2 + 1
    assert len(set(seen)) == count
    assert all(len(view) >= majority for view in seen)
    # A bare one for all but, perhaps, one: an odd sum of degrees does not exist.
    assert sum(len(view) - majority for view in seen) <= 1


@pytest.mark.parametrize("count", [count for count in COUNTS if count > 2])
def test_over_a_bridge_only_one_node_sees_both_halves(count: int) -> None:
    made = shape("bridge", names(count), seed=1)
    [bridge] = [node for node in made.nodes if len(made.sees(node)) == count]
    halves = {frozenset(made.sees(node)) - {bridge} for node in made.nodes if node != bridge}
    one, other = halves
    assert not one & other
    assert abs(len(one) - len(other)) <= 1


def test_the_bridge_can_be_named() -> None:
    assert shape("bridge", names(5), seed=1, node="n4").sees("n4") == tuple(names(5))


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_seed_gives_the_same_shape(name: str) -> None:
    assert shape(name, names(7), seed=11) == shape(name, names(7), seed=11)


@pytest.mark.parametrize("name", SHAPES)
def test_seeds_reach_more_than_one_shape(name: str) -> None:
    assert len({shape(name, names(7), seed=seed).cuts for seed in range(20)}) > 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("isolate", "isolate (seed 7): b | a, c, d, e"),
        ("split_one", "split_one (seed 7): b | a, c, d, e"),
        ("bisect", "bisect (seed 7): c, d | a, b, e"),
        (
            "majorities_ring",
            "majorities_ring (seed 7): a sees b, e; b sees a, c; c sees b, d; d sees c, e; e sees a, d",
        ),
        ("bridge", "bridge (seed 7): d, e | a, c, and b sees both"),
    ],
)
def test_a_seed_means_the_same_on_every_python(name: str, text: str) -> None:
    assert str(shape(name, "abcde", seed=7)) == text


def test_a_drawn_seed_replays_the_shape() -> None:
    made = shape("bisect", names(6))
    assert made.seed is not None
    assert f"(seed {made.seed})" in made.text
    assert shape("bisect", names(6), seed=made.seed) == made


@pytest.mark.parametrize("name", SHAPES)
def test_the_cut_pairs_are_in_file_order(name: str) -> None:
    made = shape(name, ["z", "a", "m", "b"], seed=2)
    assert {frozenset(pair) for pair in made.pairs} == made.cuts
    assert made.cuts
    in_order = list(itertools.combinations(made.nodes, 2))
    assert list(made.pairs) == [pair for pair in in_order if pair in made.pairs]


def test_an_unknown_shape_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError, match="did you mean 'bisect'"):
        shape("bisekt", names(3))


def test_too_few_nodes_are_refused() -> None:
    with pytest.raises(LabError, match="majorities_ring needs 3 nodes or more: there are 2"):
        shape("majorities_ring", names(2))


def test_an_unknown_node_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError, match="no node 'sever' for isolate; did you mean 'server'"):
        shape("isolate", ["server", "client"], node="sever")


def test_a_node_where_chance_decides_is_refused() -> None:
    with pytest.raises(LabError, match="bisect takes no node"):
        shape("bisect", names(3), node="n1")


@pytest.mark.parametrize("seed", [1.5, "7", True])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(LabError, match="a seed is a whole number"):
        shape("bisect", names(3), seed=seed)  # type: ignore[arg-type]  # that is the point
