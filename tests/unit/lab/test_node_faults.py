"""The faults of a node take back what they did, and refuse what makes no sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import FaultNotEffective, LabError, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from tests.fake_backend import Script


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab["a"]


@pytest.mark.parametrize("fault", ["paused", "killed", "stopped"])
async def test_the_node_is_back_after_the_block(lab: Lab, node: Node, fault: str) -> None:
    async with getattr(node, fault)():
        assert [record.what.split()[1] for record in lab.faults.active] == ["a"]
        with pytest.raises(LabError):
            await node.exec("echo there")
    assert [*lab.faults][-1].ended
    assert (await node.exec("echo there")).ok


@pytest.mark.parametrize("fault", ["paused", "killed", "stopped"])
def test_the_same_without_await(lab: Lab, node: Node, fault: str) -> None:
    with getattr(node.sync, fault)(), pytest.raises(LabError):
        node.sync.exec("echo there")
    assert node.sync.exec("echo there").ok


@pytest.mark.parametrize("fault", ["paused", "killed", "stopped"])
async def test_the_node_is_back_when_the_test_fails_or_is_cancelled(
    lab: Lab, node: Node, fault: str
) -> None:
    async def body() -> None:
        async with getattr(node, fault)():
            begun.set()
            await asyncio.sleep(600)

    begun = asyncio.Event()
    task = asyncio.create_task(body())
    await asyncio.wait_for(begun.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lab.faults.active
    assert (await node.exec("echo there")).ok


async def test_a_pause_without_effect_is_reported(
    node: Node, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.node("a"), "pause", lambda: None)
    with pytest.raises(FaultNotEffective, match="'pause a' has no effect: node 'a' is running"):
        async with node.paused():
            pass


async def test_a_node_that_is_stopped_cannot_be_killed_and_stays_stopped(
    lab: Lab, node: Node
) -> None:
    await node.stop()
    with pytest.raises(LabError, match="'a' is stopped"):
        async with node.killed():
            pass
    assert await asyncio.to_thread(lambda: node.status) is NodeStatus.STOPPED


async def test_heal_ends_the_faults_of_nodes_too(lab: Lab, node: Node) -> None:
    async with node.paused():
        assert await lab.heal() == ["pause a"]
        assert (await node.exec("echo there")).ok


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda node: node.disk_full(leave_mb=-1), "leave_mb is a whole number"),
        (lambda node: node.disk_full(leave_mb=1.5), "leave_mb is a whole number"),
        (lambda node: node.memory_pressure(0), "more than 0 and at most 100 percent"),
        (lambda node: node.memory_pressure(float("nan")), "more than 0 and at most 100 percent"),
        (lambda node: node.cpu_pressure(0), "workers are a whole number of 1 to 256"),
        (lambda node: node.cpu_pressure(), "not known how many processors"),
        (lambda node: node.clock(0.1), "set wrong by 1 s or more"),
        (lambda node: node.clock(float("inf")), "set wrong by 1 s or more"),
    ],
)
def test_what_makes_no_sense_is_refused(
    node: Node, make: Callable[[Node], Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        make(node)


@pytest.mark.parametrize(
    ("make", "capability"),
    [
        (lambda node: node.disk_full(), "full disks"),
        (lambda node: node.memory_pressure(50), "memory limits"),
        (lambda node: node.clock(60), "clocks of its nodes' own"),
    ],
)
async def test_what_the_backend_cannot_do_is_refused(
    node: Node, make: Callable[[Node], Any], capability: str
) -> None:
    with pytest.raises(NotSupported) as caught:
        async with make(node):
            pass
    assert caught.value.capability == capability
