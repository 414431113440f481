"""Which steps a lab has a backend's links take, and when; and which faults it refuses to make."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BackendUnavailable, LabError, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.network.steps import AddFilter, AddMirror, SetNetem, SetRate
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend

ALL = frozenset({Capability.CONDITIONS, Capability.PARTITIONS, Capability.STOP, Capability.PAUSE})
THREE: dict[str, Any] = {"nodes": [{"name": name} for name in "abc"]}
SLOW: dict[str, Any] = {
    "network": {"name": "lan", "conditions": {"latency_ms": 5}},
    "nodes": [{"name": "a", "setup": ["true"]}],
}

MANY: dict[str, Any] = {
    "network": {"name": "lan", "conditions": {"bandwidth_kbps": 1000}},
    "nodes": [{"name": f"n{number}"} for number in range(20)],
}


def make(portal: Portal, script: Script, topology: dict[str, Any], **options: Any) -> Lab:
    backend = make_backend(script, capabilities=ALL)()
    return Lab(Topology.from_dict(topology), backend, portal=portal, options=LabOptions(**options))


@pytest.fixture
async def lab(portal: Portal, script: Script) -> AsyncIterator[Lab]:
    lab = make(portal, script, THREE)
    await lab.up()
    yield lab
    await lab.down()


def devices(script: Script, kind: type) -> list[str]:
    return [step.device for step in script.conduit.steps if isinstance(step, kind)]


async def test_declared_conditions_are_there_before_the_first_setup_command(
    portal: Portal, script: Script
) -> None:
    lab = make(portal, script, SLOW)
    script.conduit.refuse = OSError(errno.EPERM, "not allowed")
    with pytest.raises(LabError, match=r"'a'[\s\S]*not allowed") as caught:
        await lab.up()
    assert caught.value.step == "network conditions"
    assert not lab.history
    assert script.is_clean


async def test_conditions_are_there_again_after_a_restart(portal: Portal, script: Script) -> None:
    lab = make(portal, script, SLOW)
    await lab.up()
    await lab["a"].restart()
    assert devices(script, SetNetem) == ["a.eth0-q0"] * 2
    await lab.down()


async def test_nodes_that_come_up_at_the_same_time_are_changed_together(
    portal: Portal, script: Script
) -> None:
    lab = make(portal, script, MANY)
    await lab.up()
    assert sorted(devices(script, SetRate)) == sorted(f"n{number}.eth0-q0" for number in range(20))
    assert script.conduit.changes < 10
    await lab.down()


async def test_what_is_refused_for_one_node_is_there_for_those_that_were_changed_with_it(
    portal: Portal, script: Script
) -> None:
    lab = make(portal, script, MANY)
    await lab.up()
    for name in ("n1", "n2", "n3"):
        await lab[name].stop()
    script.conduit.steps.clear()
    script.conduit.refuse, script.conduit.refuse_for = OSError(errno.EPERM, "not allowed"), "n2."
    starts = (lab[name].start() for name in ("n1", "n2", "n3"))
    answers = await asyncio.gather(*starts, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), LabError, type(None)]
    assert "'n2'" in str(answers[1])
    assert sorted(devices(script, SetRate)) == ["n1.eth0-q0", "n3.eth0-q0"]
    script.conduit.refuse = None
    await lab.down()


async def test_without_netem_no_node_is_created(portal: Portal, script: Script) -> None:
    script.netem = False
    lab = make(portal, script, SLOW)
    with pytest.raises(BackendUnavailable, match=r"sch_netem[\s\S]*modprobe sch_netem"):
        await lab.up()
    assert not any(step.startswith("create") for step in script.journal)
    rates = {"network": {"name": "lan", "conditions": {"bandwidth_kbps": 5}}, **THREE}
    limited = make(portal, script, rates)
    await limited.up()
    assert len(devices(script, SetRate)) == 3
    with pytest.raises(BackendUnavailable, match="sch_netem"):
        async with limited["a"].impair(latency_ms=5, attest=False):
            pass
    with pytest.raises(BackendUnavailable, match="sch_netem"):
        await limited["a"].set_conditions(packet_loss_percent=5)
    assert len(devices(script, AddMirror)) == 3
    await limited.down()


async def test_conditions_that_are_switched_off_are_not_made_by_a_test_either(
    portal: Portal, script: Script
) -> None:
    lab = make(portal, script, SLOW, conditions="off")
    await lab.up()
    assert not script.conduit.steps
    with pytest.raises(LabError, match="switched off"):
        lab["a"].impair(latency_ms=5)
    with pytest.raises(LabError, match="switched off"):
        await lab["a"].set_conditions(latency_ms=5)
    await lab.down()


async def test_impairments_lie_over_what_is_declared_figure_by_figure(
    portal: Portal, script: Script
) -> None:
    lab = make(portal, script, SLOW)
    await lab.up()
    async with lab["a"].impair(packet_loss_percent=10, attest=False):
        async with lab["a"].impair(latency_ms=7, attest=False):
            pass
        await lab["a"].set_conditions(latency_ms=9)
    await lab.heal()
    queues = [step for step in script.conduit.steps if isinstance(step, SetNetem)]
    assert [(one.delay / 1e6, one.loss) for one in queues] == [
        (5, 0),
        (5, 0.1),
        (7, 0.1),
        (5, 0.1),
        (9, 0.1),
        (9, 0),
        (5, 0),
    ]
    await lab.down()


async def test_a_fault_that_cannot_be_made_leaves_nothing_behind(lab: Lab, script: Script) -> None:
    script.conduit.refuse = OSError(errno.ENOENT, "no such classifier")
    with pytest.raises(LabError, match="no such classifier"):
        async with lab.partition({"a"}, {"b"}, attest=False):
            pass
    assert not lab.faults.active
    script.conduit.refuse = None
    async with lab.partition({"b"}, {"c"}, attest=False):
        assert {step.device for step in script.conduit.steps if isinstance(step, AddFilter)} == {
            "b.eth0",
            "c.eth0",
        }


async def test_what_heals_wrongly_is_told_and_does_not_hide_the_test_s_own_failure(
    lab: Lab, script: Script
) -> None:
    async def cut_and_be_refused_to_heal(failure: Exception | None) -> None:
        async with lab.partition({"a"}, {"b"}, attest=False):
            script.conduit.refuse = OSError(errno.EPERM, "refused")
            if failure is not None:
                raise failure

    with pytest.raises(LabError, match="refused"):
        await cut_and_be_refused_to_heal(None)
    script.conduit.refuse = None
    await lab.heal()
    with pytest.raises(AssertionError, match="the test's own") as caught:
        await cut_and_be_refused_to_heal(AssertionError("the test's own"))
    assert "refused" in "".join(caught.value.__notes__)
    script.conduit.refuse = None


async def test_a_fault_is_for_one_block(lab: Lab) -> None:
    fault = lab.partition({"a"}, {"b"}, attest=False)
    async with fault:
        assert fault.is_active
    with pytest.raises(LabError, match="used before"):
        async with fault:
            pass


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "two groups or more"),
        ([{"a"}], {}, "two groups or more"),
        ([{"a"}, set()], {}, "empty"),
        ([{"a"}, {"d"}], {}, "no node 'd'"),
        ([{"a", "b"}, {"b", "c"}], {}, "'b' is in several"),
        ([{"a", "b", "c"}, {"a", "b", "c"}], {"overlapping": True}, "cut nothing"),
        (["a", "b"], {}, "'a' is no group"),
        (["bisekt"], {}, "did you mean 'bisect'"),
        (["bisect"], {"one_way": True}, "said of groups"),
        ([{"a"}, {"b"}], {"seed": 1}, "said of a shape"),
        (["isolate"], {"node": "d"}, "no node 'd'"),
    ],
)
async def test_partitions_that_make_no_sense_are_refused(
    lab: Lab, arguments: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        lab.partition(*arguments, **options)


async def test_a_partition_of_a_network_needs_nodes_on_it(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"'wan'[\s\S]*the networks:"):
        async with lab.partition({"a"}, {"b"}, network="wan", attest=False):
            pass
    with pytest.raises(LabError, match="not on a network 'wan'"):
        async with lab["a"].impair(latency_ms=5, network="wan", attest=False):
            pass


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({}, "needs a figure or a preset"),
        ({"latency": 5}, "did you mean 'latency_ms'"),
        ({"latency_ms": 60_001}, "between 0 and 60,000 ms"),
        ({"packet_loss_percent": -1}, "between 0 and 100"),
        ({"latency_ms": "slow"}, "latency_ms"),
        ({"preset": "satelite"}, "did you mean 'satellite'"),
        ({"reorder_percent": 5}, "needs a latency_ms"),
        ({"jitter_distribution": "pareto"}, "jitter_distribution"),
    ],
)
async def test_impairments_that_make_no_sense_are_refused(
    lab: Lab, figures: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        lab["a"].impair(**figures)
    with pytest.raises(LabError, match=message):
        lab.impair("a", "b", **figures)


async def test_a_pair_is_two_nodes_of_the_lab(lab: Lab) -> None:
    with pytest.raises(LabError, match="not 'a' twice"):
        lab.impair("a", "a", latency_ms=5)
    with pytest.raises(LabError, match="no node 'd'"):
        lab.impair("a", "d", latency_ms=5)


async def test_a_backend_without_them_says_so(portal: Portal, script: Script) -> None:
    lab = Lab(Topology.from_dict(THREE), make_backend(script)(), portal=portal)
    await lab.up()
    with pytest.raises(NotSupported, match="partitions"):
        lab.partition({"a"}, {"b"})
    with pytest.raises(NotSupported, match="network conditions"):
        lab["a"].impair(latency_ms=5)
    await lab.down()
