"""A nemesis makes the faults that its seed says, one after the other, and leaves none behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from random import Random

import pytest

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import FaultNotEffective, LabError, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.schedule import FAULTS, FaultMaker, schedule
from tests.fake_backend import Script
from tests.unit.lab.conftest import MakeLab

QUICK = {"interval": 0.01, "hold": 0.02}
NODES = ("a", "b", "c", "d", "e")


def planned(seed: int, *faults: str | FaultMaker, count: int = 20) -> list[str]:
    steps = schedule(seed, faults, NODES, interval=(1, 3), hold=(2, 4))
    return [str(step) for step in islice(steps, count)]


class Journal:
    """A fault of one's own that writes down what is done to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @asynccontextmanager
    async def count(self, lab: Lab, rng: Random) -> AsyncIterator[None]:
        self.lines.append(f"in {rng.random():.6f}")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            self.lines.append("out")


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert planned(5, *FAULTS) == planned(5, *FAULTS)
    assert planned(5, *FAULTS) != planned(6, *FAULTS)


def test_a_seed_means_the_same_on_every_python() -> None:
    assert planned(1, "pause", "kill", "slow", "bisect", count=4) == [
        "1. partition bisect (seed 808157945): c, e | a, b, d for 3.69 s, after 1.27 s",
        "2. slow c by 312 ms for 2.90 s, after 1.99 s",
        "3. partition bisect (seed 1297508930): b, e | a, c, d for 2.06 s, after 1.19 s",
        "4. kill d for 2.00 s, after 2.52 s",
    ]


def test_pauses_and_holds_are_drawn_from_their_ranges() -> None:
    for step in islice(schedule(3, ["pause"], NODES, interval=(1, 3), hold=5), 50):
        assert 1 <= step.pause <= 3
        assert step.hold == 5


def test_all_faults_and_nodes_have_their_turn() -> None:
    lines = planned(3, "pause", "stop", count=200)
    for fault in ("pause", "stop"):
        for node in NODES:
            assert any(f" {fault} {node} " in line for line in lines)


def test_a_fault_of_ones_own_draws_without_changing_the_others() -> None:
    def greedy(lab: Lab, rng: Random) -> AbstractAsyncContextManager[None]:
        for _ in range(1000):
            rng.random()
        raise AssertionError

    def modest(lab: Lab, rng: Random) -> AbstractAsyncContextManager[None]:
        raise AssertionError

    one = [line.replace("greedy", "modest") for line in planned(9, "pause", greedy)]
    assert one == planned(9, "pause", modest)


async def test_faults_come_and_go_while_the_block_runs(lab: Lab) -> None:
    async with lab.nemesis(seed=1, faults=["pause", "kill", "stop"], **QUICK) as nemesis:
        async with asyncio.timeout(20):
            while len(nemesis.steps) < 5:
                await asyncio.sleep(0.01)
    assert not lab.faults.active
    assert [node.status for node in lab.nodes.values()] == [NodeStatus.RUNNING] * 2
    texts = [step.planned.text for step in nemesis.steps]
    assert [record.what for record in lab.faults] == texts
    expected = islice(
        schedule(1, ["pause", "kill", "stop"], ["a", "b"], interval=0.01, hold=0.02), len(texts)
    )
    assert texts == [step.text for step in expected]


async def test_leaving_ends_the_fault_of_now_at_once(lab: Lab) -> None:
    async with lab.nemesis(seed=1, faults=["pause"], interval=0, hold=600) as nemesis:
        async with asyncio.timeout(20):
            while not lab.faults.active:
                await asyncio.sleep(0.01)
    assert not lab.faults.active
    assert nemesis.steps[0].gone is not None
    assert (await lab.exec("echo up"))["a"].ok


def test_the_seed_is_printed_and_a_drawn_one_is_known(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    with lab.sync.nemesis(faults=["pause"], interval=600) as nemesis:
        pass
    assert f"seed={nemesis.seed}" in capsys.readouterr().out


async def test_a_failing_test_shows_seed_and_schedule(lab: Lab) -> None:
    journal = Journal()

    async def fail() -> None:
        async with lab.nemesis(seed=77, faults=[journal.count], interval=0, hold=600) as nemesis:
            async with asyncio.timeout(20):
                while not nemesis.steps or nemesis.steps[0].there is None:
                    await asyncio.sleep(0.01)
            raise AssertionError("the test's own")

    with pytest.raises(AssertionError, match="the test's own") as caught:
        await fail()
    [note] = caught.value.__notes__
    assert "seed=77" in note
    assert "1. count for 600.00 s" in note
    assert journal.lines[-1] == "out"


async def test_an_error_of_a_fault_ends_the_nemesis_and_surfaces_at_the_end(
    lab: Lab, script: Script
) -> None:
    script.fail("pause_node", FaultNotEffective("nothing happened", step="fault"))
    reached = False
    with pytest.raises(FaultNotEffective, match="nothing happened") as caught:  # noqa: PT012  the nemesis needs its turn
        async with lab.nemesis(seed=1, faults=["pause"], **QUICK) as nemesis:
            async with asyncio.timeout(20):
                while nemesis.error is None:
                    await asyncio.sleep(0.01)
            reached = True
    assert reached
    assert nemesis.error is caught.value
    assert len(nemesis.steps) == 1
    assert "seed=1" in caught.value.__notes__[-1]
    assert "never there" in caught.value.__notes__[-1]


async def test_an_error_of_a_fault_does_not_hide_the_tests_own(lab: Lab, script: Script) -> None:
    script.fail("pause_node", FaultNotEffective("nothing happened", step="fault"))
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012  the nemesis needs its turn
        async with lab.nemesis(seed=1, faults=["pause"], **QUICK):
            await asyncio.sleep(0.2)
            raise ZeroDivisionError
    assert "nothing happened" in caught.value.__notes__[0]


async def test_cancelling_the_test_takes_the_fault_back(lab: Lab) -> None:
    async def body() -> None:
        async with lab.nemesis(seed=1, faults=["kill"], interval=0, hold=600):
            await asyncio.sleep(600)

    task = asyncio.create_task(body())
    async with asyncio.timeout(20):
        while not lab.faults.active:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lab.faults.active
    assert (await lab.exec("echo up"))["a"].ok


async def test_what_the_backend_cannot_do_is_refused_before_any_fault(lab: Lab) -> None:
    nemesis = lab.nemesis(seed=1, faults=["pause", "bisect"], interval=0)
    with pytest.raises(NotSupported) as caught:
        async with nemesis:
            pass
    assert caught.value.capability == Capability.PARTITIONS
    assert not nemesis.steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faults": []}, "needs a list of faults"),
        ({"faults": "pause"}, "needs a list of faults"),
        ({"faults": ["puase"]}, "no fault 'puase'; did you mean 'pause'"),
        ({"faults": ["majorities_ring"]}, "needs 3 nodes or more: there are 2"),
        ({"faults": ["pause"], "seed": "1"}, "a seed is a whole number"),
        ({"faults": ["pause"], "interval": -1}, "interval is a number of seconds"),
        ({"faults": ["pause"], "hold": (3, 1)}, "hold is a number of seconds"),
        ({"faults": ["pause"], "hold": float("nan")}, "hold is a number of seconds"),
        ({"faults": ["pause"], "hold": (1, 2, 3)}, "hold is a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make_lab: MakeLab, options: dict[str, object], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        make_lab("a", "b").nemesis(**options)  # type: ignore[arg-type]  # that is the point


async def test_a_nemesis_is_used_once(lab: Lab) -> None:
    nemesis = lab.nemesis(seed=1, faults=["pause"], interval=600)
    async with nemesis:
        pass
    with pytest.raises(LabError, match="used before"):
        await nemesis.begin()
