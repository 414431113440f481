"""Who is measured, by which address, and what of a failure is left behind."""

from __future__ import annotations

import pytest

from pytest_benchscale.errors import LabError, NodeDied
from tests.fake_backend import Script
from tests.fake_backend.echoes import FakeEchoes
from tests.unit.lab.conftest import MakeLab

TWO_NETWORKS = [{"name": "lan"}, {"name": "wan"}]


async def test_the_pairs_are_all_and_the_addresses_those_by_which_they_reach_each_other(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(
        {"name": "a", "networks": ["lan"]},
        {"name": "b", "networks": ["lan", "wan"]},
        {"name": "c", "networks": ["wan"]},
        networks=TWO_NETWORKS,
    )
    await lab.up()
    matrix = await lab.probe(count=3)
    assert matrix.nodes == ("a", "b", "c")
    assert len(matrix) == 6
    assert matrix["a", "b"].address == str(lab["b"].addresses["lan"])
    assert matrix["c", "b"].address == str(lab["b"].addresses["wan"])
    assert matrix["a", "b"].sent == 3
    assert matrix.reachability() == {"a": ["b"], "b": ["a", "c"], "c": ["b"]}
    assert await lab.reachability(network="wan") == {"b": ["c"], "c": ["b"]}
    await lab.down()


async def test_a_node_that_is_alone_is_in_the_matrix_too(make_lab: MakeLab) -> None:
    lab = make_lab("a")
    await lab.up()
    assert await lab.reachability() == {"a": []}
    await lab.down()


async def test_who_is_down_is_left_out_and_who_is_frozen_does_not_send(make_lab: MakeLab) -> None:
    lab = make_lab("a", "b", "c")
    await lab.up()
    await lab["b"].stop()
    await lab["c"].pause()
    matrix = await lab.probe()
    assert {(one.source, one.destination): one.sent for one in matrix} == {
        ("a", "b"): 0,
        ("a", "c"): 5,
        ("b", "a"): 0,
        ("b", "c"): 0,
        ("c", "a"): 0,
        ("c", "b"): 0,
    }
    await lab.down()


async def test_a_node_that_dies_at_that_moment_is_down(make_lab: MakeLab, script: Script) -> None:
    lab = make_lab("a", "b", "c")
    await lab.up()
    script.fail("echoes b", NodeDied("b", "it was killed"))
    assert await lab.reachability() == {"a": ["c"], "b": [], "c": ["a"]}
    await lab.down()


async def test_when_one_cannot_measure_the_others_are_let_go(
    make_lab: MakeLab, script: Script
) -> None:
    lab = make_lab("a", "b", "c")
    await lab.up()
    script.fail("echoes b", OSError(1, "Operation not permitted"))
    before = FakeEchoes.opened
    with pytest.raises(LabError, match="probe of node 'b' failed"):
        await lab.probe()
    assert FakeEchoes.opened == before
    await lab.down()


async def test_a_lab_that_is_not_up_cannot_be_measured(make_lab: MakeLab) -> None:
    with pytest.raises(LabError, match="its lab is not up"):
        await make_lab("a", "b").probe()


async def test_an_unknown_network_is_refused_with_those_there_are(make_lab: MakeLab) -> None:
    lab = make_lab("a", "b", networks=TWO_NETWORKS)
    await lab.up()
    with pytest.raises(LabError, match=r"'wlan'(.|\n)*there are: lan, wan"):
        await lab.reachability(network="wlan")
    await lab.down()


def test_a_test_without_a_loop_can_measure_too(make_lab: MakeLab) -> None:
    lab = make_lab("a", "b")
    lab.portal.call_blocking(lab.up)
    assert lab.sync.probe(count=1)["a", "b"].answered == 1
    assert lab.sync.reachability() == {"a": ["b"], "b": ["a"]}
    lab.portal.call_blocking(lab.down)
