"""What a matrix tells: tables to read, and who reaches whom."""

from __future__ import annotations

import pytest

from pytest_benchscale.network.matrix import Matrix, PathMeasure


def path(
    source: str,
    destination: str,
    rtts: tuple[float, ...] = (1.0,) * 4,
    *,
    sent: int = 4,
    delivered: int | None = 4,
    delays: tuple[float, ...] = (),
) -> PathMeasure:
    return PathMeasure(source, destination, "10.0.0.1", sent, delivered, len(rtts), rtts, delays)


def test_times_are_medians_and_none_without_any() -> None:
    one = path("a", "b", (1.0, 9.0, 2.0), delays=(0.5, 0.7, 4.0))
    assert (one.median_rtt_ms, one.one_way_ms) == (2.0, 0.7)
    lost = path("a", "b", (), delivered=0)
    assert (lost.median_rtt_ms, lost.one_way_ms) == (None, None)


@pytest.mark.parametrize(
    ("one", "loss", "delivered", "reached"),
    [
        pytest.param(path("a", "b"), 0, 100, True, id="all well"),
        pytest.param(path("a", "b", (1.0,), delivered=2), 75, 50, True, id="lost both ways"),
        pytest.param(path("a", "b", (), delivered=4), 100, 100, True, id="cut on the way back"),
        pytest.param(path("a", "b", (), delivered=0), 100, 0, False, id="cut"),
        pytest.param(path("a", "b", (), delivered=None), 100, None, False, id="no answer"),
        pytest.param(path("a", "b", (1.0,), delivered=None), 75, None, True, id="unseen"),
        pytest.param(path("a", "b", (), sent=0, delivered=0), 100, 0, False, id="down"),
    ],
)
def test_loss_is_of_round_trips_and_reach_is_of_one_way(
    one: PathMeasure, loss: float, delivered: float | None, reached: bool
) -> None:
    assert one.loss_percent == loss
    assert one.delivered_percent == delivered
    assert one.reached is reached


def test_reachability_has_every_node_in_order_and_diffs_as_a_dict() -> None:
    matrix = Matrix(
        ["c", "a", "b"],
        [path("a", "b"), path("b", "a", (), delivered=0), path("a", "c"), path("c", "a")],
    )
    assert matrix.reachability() == {"c": ["a"], "a": ["c", "b"], "b": []}
    assert list(matrix.reachability()) == ["c", "a", "b"]
    assert repr(matrix.reachability()) == "{'c': ['a'], 'a': ['c', 'b'], 'b': []}"


def test_a_table_has_a_row_for_each_source() -> None:
    matrix = Matrix(
        ["a", "b", "gamma"],
        [
            path("a", "b", (0.25,) * 4),
            path("b", "a", (150.4,) * 3),
            path("a", "gamma", (), delivered=0),
            path("gamma", "a", (), delivered=3),
            path("b", "gamma", (), delivered=None),
            path("gamma", "b", (), sent=0, delivered=0),
        ],
    )
    assert str(matrix) == (
        "from \\ to  a                   b        gamma\n"
        "a          -                   0.25 ms  cut\n"
        "b          150 ms, 25 % lost   -        no answer\n"
        "gamma      arrives, no answer  down     -"
    )


def test_of_many_nodes_only_what_is_not_well_is_listed() -> None:
    names = [f"n{number}" for number in range(13)]
    measures = [path(a, b) for a in names for b in names if a != b]
    measures[0] = path("n0", "n1", (), delivered=0)
    measures[1] = path("n0", "n2", (3.0, 3.0), delivered=2)
    assert str(Matrix(names, measures)) == (
        "13 nodes, 156 paths, 154 without loss, 1.00 to 1.00 ms\n"
        "n0 -> n1 (10.0.0.1): cut\n"
        "n0 -> n2 (10.0.0.1): 3.00 ms, 50 % lost"
    )


def test_a_path_that_was_not_measured_is_a_key_error_that_says_so() -> None:
    matrix = Matrix(["a", "b"], [path("a", "b")])
    assert ("a", "b") in matrix
    assert ("b", "a") not in matrix
    assert len(matrix) == 1
    with pytest.raises(KeyError, match="nothing was measured from 'b' to 'a'"):
        matrix["b", "a"]
