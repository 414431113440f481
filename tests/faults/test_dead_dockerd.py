"""A Docker daemon that stops in the middle of a lab's life: errors are clear and soon, nothing hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from pytest_benchscale import BackendUnavailable, BenchscaleError, Lab, LabError
from tests.contract.docker_labs import topology
from tests.daemons.endpoints import connection
from tests.daemons.private import PrivateDockerd

pytestmark = pytest.mark.usefixtures("ledger_of_its_own")

PAIR = "{network: {name: lan}, nodes: [{name: a}, {name: b}]}"


@pytest.fixture
def dockerd(private_dockerd: PrivateDockerd, monkeypatch: pytest.MonkeyPatch) -> PrivateDockerd:
    """The daemon that labs of this test run on."""
    monkeypatch.setenv("DOCKER_HOST", private_dockerd.host)
    return private_dockerd


@pytest.fixture
async def lab(dockerd: PrivateDockerd) -> AsyncIterator[Lab]:
    """A lab that a test may leave in any state."""
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        yield lab


def left(dockerd: PrivateDockerd, lab: Lab) -> list[str]:
    """Return what the daemon still has of a lab."""
    ours = {"label": f"benchscale.lab={lab.lab_id}"}
    with connection(dockerd.host) as client:
        containers = client.api.containers(all=True, filters=ours)
        return [one["Id"] for one in (*containers, *client.api.networks(filters=ours))]


async def test_a_killed_daemon_ends_every_call_at_once(dockerd, lab):
    calls = [
        asyncio.create_task(lab["a"].exec("sleep 1000", timeout=None)),
        asyncio.create_task(lab["b"].wait_for_exec("false", timeout=600)),
        asyncio.create_task(lab["b"].wait_for_log("never", timeout=600)),
    ]
    await asyncio.sleep(1)
    dockerd.kill()
    async with asyncio.timeout(15):
        for call in calls:
            with pytest.raises(BackendUnavailable, match="daemon"):
                await call
        with pytest.raises(BenchscaleError):
            await lab["a"].exec("true")
        with pytest.raises(BenchscaleError):
            await lab["a"].logs()
    dockerd.start()
    await lab.down()
    assert left(dockerd, lab) == []


async def test_teardown_waits_for_a_daemon_that_comes_back(dockerd, lab):
    dockerd.kill()
    down = asyncio.create_task(lab.down())
    await asyncio.sleep(3)
    assert not down.done()
    dockerd.start()
    await down
    assert left(dockerd, lab) == []


async def test_teardown_gives_up_on_a_daemon_that_stays_away(dockerd, lab):
    dockerd.kill()
    begun = time.monotonic()
    with pytest.raises(LabError, match="not taken down") as caught:
        await lab.down()
    assert time.monotonic() - begun < 45
    assert "daemon" in str(caught.value)
    dockerd.start()
    await lab.down()  # once more, for what is left
    assert left(dockerd, lab) == []


async def test_a_frozen_daemon_is_told_from_a_slow_one(dockerd, lab):
    dockerd.freeze()
    begun = time.monotonic()
    with pytest.raises(BenchscaleError):
        await lab["a"].exec("true; sleep 0.1", timeout=3)
    with pytest.raises(BenchscaleError):
        await lab["b"].wait_for_exec("false", timeout=3)
    assert time.monotonic() - begun < 60
    dockerd.thaw()
    assert (await lab["b"].exec("echo again", timeout=30)).stdout == "again\n"


async def test_teardown_waits_for_a_frozen_daemon(dockerd, lab):
    dockerd.freeze()
    down = asyncio.create_task(lab.down())
    await asyncio.sleep(3)
    assert not down.done()
    dockerd.thaw()
    await down
    assert left(dockerd, lab) == []


async def test_a_daemon_that_is_killed_during_the_bring_up_fails_it(dockerd):
    nodes = ", ".join(f"{{name: n{number}}}" for number in range(20))
    lab = Lab.open(topology(f"{{network: {{name: lan}}, nodes: [{nodes}]}}"), backend="docker")
    opening = asyncio.create_task(lab.__aenter__())
    await asyncio.sleep(2)
    dockerd.kill()
    begun = time.monotonic()
    with pytest.raises(BackendUnavailable):
        await opening
    assert time.monotonic() - begun < 60
    dockerd.start()
    with connection(dockerd.host) as client:
        ours = {"label": "benchscale.lab"}
        for container in client.api.containers(all=True, filters=ours):
            client.api.remove_container(container["Id"], force=True)
