"""What a lab refuses, hands out and leaves behind; and labs outside pytest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import (
    BenchscaleError,
    LabError,
    NotSupported,
)
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend
from tests.unit.lab.conftest import MakeLab

# --- checks ---


@pytest.mark.parametrize(
    ("node", "capability"),
    [
        ({"disk_gb": 5}, Capability.DISK_SIZE),
        ({"cloud_init": {"user": "x"}}, Capability.CLOUD_INIT),
        ({"volumes": ["./x:/srv"]}, Capability.VOLUMES),
        ({"ports": ["8080:80"]}, Capability.PUBLISHED_PORTS),
    ],
)
async def test_what_the_backend_lacks_is_found_before_anything_is_created(
    make_lab: MakeLab, script: Script, node: dict[str, Any], capability: Capability
) -> None:
    with pytest.raises(NotSupported) as caught:
        await make_lab({"name": "a", **node}).up()
    assert (caught.value.backend, caught.value.capability) == ("fake", capability)
    assert f"node 'a': {next(iter(node))}" in str(caught.value)
    assert not script.journal


async def test_internet_needs_a_backend_that_has_it(make_lab: MakeLab) -> None:
    with pytest.raises(NotSupported, match=r"internet access[\s\S]*network 'x'"):
        await make_lab("a", network={"name": "x", "internet": True}).up()


async def test_the_backends_own_reasons_are_reported(make_lab: MakeLab, script: Script) -> None:
    script.reasons = ["node 'a': it is too blue", "and too big"]
    with pytest.raises(LabError, match=r"cannot run topology[\s\S]*too blue\nand too big"):
        await make_lab("a").up()
    assert not script.journal


CONDITIONS: list[dict[str, Any]] = [
    {"network": {"name": "lan", "preset": "satellite"}},
    {"network": {"name": "lan", "conditions": {"latency_ms": 5}}},
]


@pytest.mark.parametrize("topology", CONDITIONS)
async def test_declared_conditions_need_a_backend_that_applies_them(
    make_lab: MakeLab, script: Script, topology: dict[str, Any]
) -> None:
    with pytest.raises(NotSupported, match=r"network conditions[\s\S]*benchscale-conditions=off"):
        await make_lab("a", **topology).up()
    assert not script.journal


@pytest.mark.parametrize("topology", CONDITIONS)
async def test_conditions_can_be_switched_off(
    make_lab: MakeLab, script: Script, topology: dict[str, Any]
) -> None:
    lab = make_lab("a", options=LabOptions(conditions="off"), **topology)
    await lab.up()
    plan = script.node("a").plan
    assert [one.conditions for one in plan.interfaces] == [None]
    await lab.down()


async def test_conditions_that_change_nothing_need_nothing(make_lab: MakeLab) -> None:
    lab = make_lab("a", network={"name": "lan", "preset": "localhost"})
    await lab.up()
    await lab.down()


async def test_declared_conditions_reach_the_backend(portal: Portal, script: Script) -> None:
    backend = make_backend(script, capabilities=frozenset({Capability.CONDITIONS}))()
    topology = Topology.from_dict({"nodes": [{"name": "a"}], **CONDITIONS[1]})
    lab = Lab(topology, backend, portal=portal)
    await lab.up()
    (interface,) = script.node("a").plan.interfaces
    assert interface.conditions is not None
    assert interface.conditions.latency_ms == 5
    await lab.down()


async def test_nodes_of_another_backend_cannot_be_mixed_in(make_lab: MakeLab) -> None:
    with pytest.raises(LabError, match=r"cannot be mixed yet: fake and docker[\s\S]*node 'b'"):
        await make_lab("a", {"name": "b", "backend": "docker"}).up()


# --- looking things up, artifacts, library use ---


async def test_a_wrong_name_is_an_error_with_a_suggestion(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"no node 'bb'; did you mean 'b'\?\nits nodes: a, b"):
        lab["bb"]
    with pytest.raises(KeyError):
        lab["server"]
    assert lab["a"] is lab.nodes["a"]


async def test_a_lab_shows_its_state(make_lab: MakeLab) -> None:
    lab = make_lab("a", metadata={"name": "demo"})
    shown = [repr(lab), lab.lab_id]
    await lab.up()
    assert shown == ["<Lab 'demo' on 'fake': not up>", None]
    assert repr(lab) == "<Lab 'demo' on 'fake': up>"
    assert re.fullmatch("[0-9a-f]{8}", str(lab.lab_id))
    await lab.down()
    assert not lab.is_up


async def test_artifacts_hold_logs_commands_faults_and_the_topology(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    options = LabOptions(artifacts=tmp_path / "deep" / "down")
    long = "n" * 300
    lab = make_lab("a", long, metadata={"name": "my lab"}, options=options)
    await lab.up()
    await lab["a"].exec("log hello; echo 'two words'")
    async with lab["a"].paused():
        pass
    await lab.down()
    (place,) = (tmp_path / "deep" / "down").iterdir()
    assert place.name.endswith(str(lab.lab_id))
    assert (place / "nodes" / "a.log").read_text() == "hello\n"
    assert len(list((place / "nodes").iterdir())) == 2
    assert "a: log hello; echo 'two words'  [exit code 0" in (place / "commands.log").read_text()
    assert "pause a  [" in (place / "faults.log").read_text()
    run = json.loads((place / "topology.json").read_text())
    assert run["backend"] == "fake"
    assert run["topology"]["nodes"][0]["name"] == "a"
    assert run["addresses"]["a"]["lan"]


async def test_a_failed_bring_up_leaves_artifacts_too(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(
        {"name": "a", "setup": ["log why; false"]}, options=LabOptions(artifacts=tmp_path)
    )
    with pytest.raises(LabError):
        await lab.up()
    (place,) = tmp_path.iterdir()
    assert (place / "nodes" / "a.log").read_text() == "why\n"


async def test_artifacts_that_cannot_be_written_do_not_stop_the_teardown(
    make_lab: MakeLab, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    lab = make_lab("a", options=LabOptions(artifacts=tmp_path / "file"))
    await lab.up()
    script.fail("logs a", BenchscaleError("no log"))
    with pytest.raises(LabError, match="writing the artifacts"):
        await lab.down()
    assert script.is_clean


@pytest.fixture
def registered(script: Script) -> Any:
    registry.register("fake", make_backend(script))
    yield
    registry.unregister("fake")


@pytest.mark.usefixtures("registered")
async def test_a_lab_can_be_opened_without_pytest(script: Script, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("nodes: [{name: a}]\n")
    async with Lab.open(file, backend="fake") as lab:
        assert (await lab["a"].exec("echo hi")).stdout == "hi\n"
    with pytest.raises(LabError):
        await lab["a"].exec("echo hi")
    assert script.is_clean


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_an_open_lab_is_closed_on_errors_and_cancellation(script: Script, library: str) -> None:
    topology = Topology.from_dict({"nodes": [{"name": "a"}]})

    async def fail() -> None:
        async with Lab.open(topology, backend="fake"):
            raise ZeroDivisionError

    async def hang() -> None:
        with anyio.move_on_after(0.1):
            async with Lab.open(topology, backend="fake") as lab:
                await lab["a"].exec("sleep 100")

    with pytest.raises(ZeroDivisionError):
        anyio.run(fail, backend=library)
    assert script.is_clean
    anyio.run(hang, backend=library)
    assert script.is_clean


@pytest.mark.usefixtures("registered")
def test_a_lab_can_be_opened_without_a_loop(script: Script) -> None:
    topology = Topology.from_dict({"nodes": [{"name": "a"}]})
    with Lab.open_sync(topology, backend="fake") as lab:
        assert lab.sync["a"].exec("echo hi").stdout == "hi\n"
    with pytest.raises(ZeroDivisionError), Lab.open_sync(topology, backend="fake"):
        raise ZeroDivisionError
    assert script.is_clean


@pytest.mark.usefixtures("registered")
async def test_a_lab_that_fails_to_open_reports_that_and_nothing_else(script: Script) -> None:
    script.fail("create_node a", OSError("disk on fire"))
    script.fail("delete_node a", OSError("stuck"))
    topology = Topology.from_dict({"nodes": [{"name": "a"}]})
    with pytest.raises(LabError, match="disk on fire"):
        async with Lab.open(topology, backend="fake"):
            pytest.fail("it came up")


@pytest.mark.usefixtures("registered")
async def test_a_nodes_own_backend_wins_over_auto(script: Script) -> None:
    topology = Topology.from_dict(
        {"backend": "local", "nodes": [{"name": "a", "backend": "fake"}]},
        backends=["local", "fake"],
    )
    async with Lab.open(topology) as lab:
        assert lab.backend == "fake"
