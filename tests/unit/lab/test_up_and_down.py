"""Bringing a lab up, rolling it back, and taking it down."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from pytest_benchscale.errors import (
    BackendUnavailable,
    BenchscaleError,
    LabError,
    NodeDied,
)
from pytest_benchscale.lab import bringup, teardown
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import FakeBackend, Script, make_backend
from tests.unit.lab.conftest import MakeLab

THREE_TIERS = (
    {"name": "web", "depends_on": ["app"]},
    {"name": "app", "depends_on": ["db"], "setup": ["echo set up"]},
    {"name": "db", "wait_for": [{"exec": "true"}]},
)


def _order(script: Script, *steps: str) -> Sequence[int]:
    return [script.journal.index(step) for step in steps]


# --- up ---


async def test_networks_come_before_nodes_and_nodes_in_parallel(
    make_lab: MakeLab, script: Script
) -> None:
    script.delay("create_node", 0.05)
    lab = make_lab(*(f"n{i}" for i in range(20)), networks=[{"name": "x"}, {"name": "y"}])
    await lab.up()
    assert lab.is_up
    assert script.journal[:2] == ["probe", "open"]
    assert sorted(script.journal[2:4]) == ["create_network x", "create_network y"]
    assert script.most_at_once == 20
    assert list(lab.networks) == ["x", "y"]
    await lab.down()
    assert script.is_clean


async def test_no_more_nodes_than_bearable_are_created_at_once(
    make_lab: MakeLab, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "AT_ONCE", 4)
    script.delay("create_node", 0.01)
    lab = make_lab(*(f"n{i}" for i in range(20)))
    await lab.up()
    assert script.most_at_once == 4
    await lab.down()


async def test_a_wait_takes_no_place_among_those_created(
    make_lab: MakeLab, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "AT_ONCE", 1)
    wait = {"wait_for": [{"file": "/srv/late", "timeout": 20}]}
    lab = make_lab({"name": "a", "setup": ["( sleep 0.2; touch /srv/late ) &"], **wait}, "b")
    await lab.up()
    await lab.down()


async def test_a_node_comes_after_what_it_depends_on_is_ready(
    make_lab: MakeLab, script: Script
) -> None:
    script.delay("create_node", 0.02)
    lab = make_lab(*THREE_TIERS)
    await lab.up()
    order = _order(script, "create_node db", "create_node app", "create_node web")
    assert order == sorted(order)
    assert script.most_at_once == 1
    assert [one.command_line for one in lab.history] == ["echo set up"]
    await lab.down()


@pytest.mark.parametrize("loses", [True, False])
async def test_what_nodes_were_set_up_with_is_synced_where_their_end_would_lose_it(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch, loses: bool
) -> None:
    monkeypatch.setattr(FakeBackend, "kill_loses_writes", loses)
    lab = make_lab({"name": "a", "setup": ["echo set up"]}, "b")
    await lab.up()
    synced = [one.node for one in lab.history if one.command_line.endswith("|| sync")]
    assert synced == (["a"] if loses else [])
    await lab.down()


async def test_files_are_deployed_before_the_setup_runs(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tool").write_text("a tool")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_text("a leaf")
    deploy = [
        {"src": "tool", "dest": "/opt/app/bin/tool", "mode": "0700"},
        {"src": "./tool", "dest": "/srv", "mode": "0711"},
        {"src": "tree", "dest": "/srv/"},
    ]
    lab = make_lab({"name": "a", "deploy": deploy, "setup": ["cat /opt/app/bin/tool > /srv/seen"]})
    await lab.up()
    assert await lab["a"].read_text("/srv/seen") == "a tool"
    assert await lab["a"].read_text("/srv/tree/leaf") == "a leaf"
    await lab["a"].get("/opt/app/bin/tool", tmp_path / "back")
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700
    await lab["a"].get("/srv/tool", tmp_path / "again")
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o711
    await lab.down()


async def test_a_lab_lives_once(make_lab: MakeLab) -> None:
    lab = make_lab("a")
    await lab.up()
    for _ in range(2):
        with pytest.raises(LabError, match="was up before"):
            await lab.up()
        await lab.down()


# --- failures ---


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("open", "open failed: disk on fire"),
        ("create_network lan", "creating network 'lan' failed: disk on fire"),
        ("create_node b", "create of node 'b' failed: disk on fire"),
    ],
)
async def test_a_failing_step_rolls_everything_back(
    make_lab: MakeLab, script: Script, step: str, words: str
) -> None:
    script.fail(step, OSError("disk on fire"))
    lab = make_lab("a", "b", "c")
    with pytest.raises(LabError, match=words):
        await lab.up()
    assert script.is_clean
    assert not lab.is_up
    assert script.done[-1] == "close"
    await lab.down()


async def test_the_backends_own_words_are_kept(make_lab: MakeLab, script: Script) -> None:
    error = BenchscaleError("no such image", details="tried two", resolution="pull it")
    script.fail("create_node b", error)
    with pytest.raises(LabError) as caught:
        await make_lab("a", "b").up()
    assert (caught.value.node, caught.value.step) == ("b", "create")
    assert caught.value.brief == "node 'b' did not come up, in step create: no such image"
    assert (caught.value.details, caught.value.resolution) == ("tried two", "pull it")


@pytest.mark.parametrize("step", ["probe", "create_node a"])
async def test_an_unusable_backend_keeps_its_error(
    make_lab: MakeLab, script: Script, step: str
) -> None:
    script.fail(step, BackendUnavailable("fake", "it sleeps", resolution="wake it"))
    with pytest.raises(BackendUnavailable, match=r"it sleeps[\s\S]*wake it"):
        await make_lab("a").up()
    assert script.is_clean


async def test_a_bug_in_a_backend_shows_as_what_it_is(make_lab: MakeLab, script: Script) -> None:
    script.fail("create_node a", ZeroDivisionError("oops"))
    with pytest.raises(ZeroDivisionError):
        await make_lab("a").up()
    assert script.is_clean


async def test_a_failing_setup_names_node_and_step_and_shows_the_output(
    make_lab: MakeLab, script: Script
) -> None:
    bad = {"name": "b", "setup": ["true", "echo such luck; exit 7", "touch /srv/never"]}
    with pytest.raises(LabError) as caught:
        await make_lab("a", bad).up()
    error = caught.value
    assert (error.node, error.step) == ("b", "setup[1]")
    assert error.brief == "setup[1] of node 'b' failed with exit code 7: echo such luck; exit 7"
    assert "such luck\n" in str(error)
    assert "What to do: correct the command under `setup:`" in str(error)
    assert script.is_clean


async def test_a_setup_that_hangs_is_ended(
    make_lab: MakeLab, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "SETUP_DEADLINE", 0.05)
    with pytest.raises(LabError, match=r"node 'a'.*setup\[0\].*timed out[\s\S]*trying") as caught:
        await make_lab({"name": "a", "setup": ["echo trying; sleep 100"]}).up()
    assert caught.value.step == "setup[0]"
    assert script.is_clean


async def test_a_node_that_dies_in_its_setup_is_reported_with_its_log(
    make_lab: MakeLab, script: Script
) -> None:
    with pytest.raises(LabError, match=r"node 'a'.*setup\[0\].*died: bang[\s\S]*adieu"):
        await make_lab({"name": "a", "setup": ["log adieu; die bang"]}).up()
    assert script.is_clean


@pytest.mark.parametrize(
    ("awaited", "words"),
    [
        ({"port": 80}, r"tcp port 80.*[\s\S]*listening on tcp: nothing"),
        ({"exec": "echo not yet; false"}, r"success of echo[\s\S]*not yet"),
        ({"file": "/srv/ready"}, r"the file /srv/ready"),
        ({"log": "listening"}, r"'listening' in the log"),
    ],
)
async def test_what_is_waited_for_in_vain_is_reported_with_the_last_state(
    make_lab: MakeLab, script: Script, awaited: dict[str, Any], words: str
) -> None:
    with pytest.raises(LabError, match=words) as caught:
        await make_lab({"name": "a", "wait_for": [{**awaited, "timeout": 0.1}]}).up()
    assert (caught.value.node, caught.value.step) == ("a", "wait_for")
    assert script.is_clean


async def test_a_missing_file_to_deploy_is_reported(make_lab: MakeLab, script: Script) -> None:
    node = {"name": "a", "deploy": [{"src": "no-such-file", "dest": "/srv/x"}]}
    with pytest.raises(LabError, match=r"no such file here: .*no-such-file") as caught:
        await make_lab(node).up()
    assert (caught.value.node, caught.value.step) == ("a", "deploy of no-such-file")
    assert script.is_clean


async def test_the_first_failure_cancels_the_rest(make_lab: MakeLab, script: Script) -> None:
    script.delay("create_node", 30)
    script.delay("create_node b", 0.01)
    script.fail("create_node b", OSError("disk on fire"))
    with anyio.fail_after(10):
        with pytest.raises(LabError, match="node 'b'"):
            await make_lab("a", "b", "c").up()
    assert sorted(script.cancelled) == ["create_node a", "create_node c"]
    assert script.is_clean


async def test_errors_of_the_roll_back_are_notes_and_replace_nothing(
    make_lab: MakeLab, script: Script
) -> None:
    script.fail("create_node b", OSError("disk on fire"))
    script.fail("delete_node a", OSError("stuck"))
    script.fail("close", BenchscaleError("cannot close"))
    lab = make_lab("a", "b")
    with pytest.raises(LabError, match="disk on fire") as caught:
        await lab.up()
    notes = "\n".join(caught.value.__notes__)
    assert "while rolling back: stuck (while deleting node 'a')" in notes
    assert "while rolling back: cannot close" in notes
    assert "delete_network lan" in script.done
    script.failures.clear()
    await lab.down()  # gives back what the roll-back could not
    assert script.is_clean


async def test_a_roll_back_that_hangs_has_a_deadline(
    make_lab: MakeLab, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "DELETE_DEADLINE", 0.1)
    script.fail("create_node b", OSError("disk on fire"))
    script.delay("delete_node a", 60)
    with anyio.fail_after(10):
        with pytest.raises(LabError, match="disk on fire") as caught:
            await make_lab("a", "b").up()
    assert "deleting node 'a' was not done after 0.1 s" in caught.value.__notes__[0]


async def test_cancelling_at_any_moment_rolls_back(portal: Portal) -> None:
    rng = random.Random(7)
    for _ in range(40):
        script = Script()
        for step in ("probe", "open", "create_network", "create_node", "delete_node", "close"):
            script.delay(step, 0.002)
        nodes = [{"name": "a", "setup": ["sleep 0.01"]}, {"name": "b", "depends_on": ["a"]}]
        topology = Topology.from_dict({"nodes": nodes})
        lab = Lab(topology, make_backend(script)(), portal=portal)
        with anyio.move_on_after(rng.uniform(0, 0.04)) as scope:
            await lab.up()
        assert script.is_clean or not scope.cancelled_caught
        assert lab.is_up is not scope.cancelled_caught
        await lab.down()
        assert script.is_clean


async def test_a_second_bring_up_is_refused_and_leaves_the_lab_up(make_lab: MakeLab) -> None:
    lab = make_lab("a")
    await lab.up()
    with pytest.raises(LabError, match="was up before"):
        await lab.up()
    assert lab.is_up
    await lab.down()


async def test_cancelling_twice_still_rolls_back(make_lab: MakeLab, script: Script) -> None:
    script.delay("create_node", 30)
    script.delay("delete_node", 0.05)
    task = asyncio.create_task(make_lab("a", "b").up())
    while "create_node b" not in script.journal:
        await asyncio.sleep(0.005)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.is_clean


# --- down ---


async def test_nodes_go_before_networks_and_all_at_once(make_lab: MakeLab, script: Script) -> None:
    lab = make_lab(*(f"n{i}" for i in range(20)))
    await lab.up()
    script.delay("delete_node", 0.05)
    script.most_at_once = 0
    script.journal.clear()
    await lab.down()
    assert script.most_at_once == 20
    assert script.journal[-2:] == ["delete_network lan", "close"]


async def test_errors_of_the_teardown_are_collected_and_the_rest_goes_on(
    make_lab: MakeLab, script: Script
) -> None:
    lab = make_lab("a", "b", "c")
    await lab.up()
    script.fail("delete_node a", OSError("stuck"))
    script.fail("delete_node c", NodeDied("c", "early"))
    script.fail("delete_network lan", LabError("busy"))
    with pytest.raises(LabError, match="not taken down cleanly") as caught:
        await lab.down()
    for words in ("stuck", "deleting node 'a'", "early", "busy"):
        assert words in str(caught.value)
    assert "close" in script.done
    script.failures.clear()
    await lab.down()
    assert script.is_clean


async def test_down_is_idempotent_and_safe_before_up(make_lab: MakeLab, script: Script) -> None:
    lab = make_lab("a")
    await lab.down()
    await lab.up()
    await asyncio.gather(lab.down(), lab.down())
    await lab.down()
    assert script.journal.count("delete_node a") == 1
    assert script.is_clean


async def test_down_runs_to_its_end_when_it_is_cancelled(make_lab: MakeLab, script: Script) -> None:
    lab = make_lab("a", "b")
    await lab.up()
    script.delay("delete_node", 0.1)
    with anyio.move_on_after(0.02) as scope:
        await lab.down()
    assert scope.cancelled_caught
    assert script.is_clean
