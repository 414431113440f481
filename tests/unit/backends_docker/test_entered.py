"""The way to a container's traffic control: one change at a time, and none once the container has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import cast

import anyio
import pytest

from pytest_benchscale.backends.docker.entered import EnteredConduit
from pytest_benchscale.errors import BenchscaleError, NodeDied
from pytest_benchscale.network.steps import AddClassifier, Step
from pytest_benchscale.network.traffic import TrafficControl

STEPS = [AddClassifier("eth0")]


class Traffic:
    """A kernel that takes its time, until `released`, and refuses with `error`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.error: OSError | None = None
        self.at_work = 0
        self.closings: list[int] = []  # how many were at work

    def carry_out(self, steps: Sequence[Step]) -> None:
        assert not self.closings
        self.at_work += 1
        assert self.at_work == 1
        self.begun.set()
        assert self.released.wait(20)
        self.at_work -= 1
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closings.append(self.at_work)


def conduit(traffic: Traffic, reason: BenchscaleError | None = None) -> EnteredConduit:
    async def fate() -> BenchscaleError | None:
        return reason

    return EnteredConduit(cast(TrafficControl, traffic), anyio.CapacityLimiter(4), fate)


async def test_a_container_that_ends_during_a_change_is_let_go_of_afterwards() -> None:
    traffic = Traffic()
    way = conduit(traffic)
    change = asyncio.create_task(way.change(STEPS))
    await anyio.to_thread.run_sync(traffic.begun.wait, 20)
    way.lost(NodeDied("one", "killed"))
    assert not traffic.closings
    traffic.released.set()
    await change
    assert traffic.closings == [0]
    with pytest.raises(NodeDied, match="killed"):
        await way.change(STEPS)


async def test_changes_do_not_meet() -> None:
    traffic = Traffic()
    way = conduit(traffic)
    changes = [asyncio.create_task(way.change(STEPS)) for _ in range(3)]
    await anyio.to_thread.run_sync(traffic.begun.wait, 20)
    traffic.released.set()
    await asyncio.gather(*changes)
    way.lost(NodeDied("one", "killed"))
    assert traffic.closings == [0]


async def test_what_the_kernel_refuses_is_told_unless_the_container_has_ended() -> None:
    traffic = Traffic()
    traffic.released.set()
    traffic.error = OSError(19, "No such device")
    with pytest.raises(OSError, match="No such device"):
        await conduit(traffic).change(STEPS)
    with pytest.raises(NodeDied, match="it ended"):
        await conduit(traffic, NodeDied("one", "it ended")).change(STEPS)
