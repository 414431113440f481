"""The faults of a node: there while the block runs, gone afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import Contract, count_sleeping, requires, unique_seconds

__all__ = ["NodeFaultContract"]

FRAIL = """
metadata: {name: contract-node-faults}
network: {name: lan}
nodes:
  - {name: frail%s}
  - {name: witness}
"""

SET_UP = """
metadata: {name: contract-set-up}
nodes:
  - name: frail
    deploy: [{src: declared, dest: /srv/declared}]
    setup: ["echo made > /srv/made"]
"""

OWN = "/dev/shm"  # noqa: S108  the node's; a tmpfs on every backend


class NodeFaultContract(Contract):
    """Nodes that are frozen, without power, full or under pressure for a while."""

    @pytest.fixture(scope="class")
    @classmethod
    def frail_lab(cls, _backend_under_test: None) -> Iterator[Lab]:
        """Two nodes, one of them to be ill-treated."""
        limits = {Capability.MEMORY_LIMIT: ", memory_mb: 512", Capability.CPU_LIMIT: ", vcpus: 1"}
        can = registry.get(cls.backend).capabilities
        declared = "".join(text for capability, text in limits.items() if capability in can)
        with cls.open(FRAIL % declared) as lab:
            yield lab

    @pytest.fixture
    def frail(self, frail_lab: Lab) -> Iterator[Node]:
        """A node that nothing is wrong with, before and after."""
        node = frail_lab["frail"]
        yield node
        assert not frail_lab.faults.active
        assert node.sync.exec("echo well").stdout == "well\n"

    @requires(Capability.PAUSE)
    async def test_a_node_is_paused_for_a_block(self, frail: Node) -> None:
        async with frail.paused():
            assert await _status(frail) is NodeStatus.PAUSED
        assert await _status(frail) is NodeStatus.RUNNING

    @requires(Capability.STOP)
    async def test_a_node_is_without_power_for_a_block(self, frail: Node) -> None:
        before = (frail.addresses, frail.interfaces)
        async with frail.killed():
            assert await _status(frail) is NodeStatus.STOPPED
        assert await _status(frail) is NodeStatus.RUNNING
        assert (frail.addresses, frail.interfaces) == before

    @requires(Capability.STOP)
    async def test_what_a_node_was_set_up_with_outlasts_its_end_just_after(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "declared").write_text("declared\n")
        with self.open(SET_UP, tmp_path) as lab:
            frail = lab["frail"]
            await frail.kill()
            await frail.start()
            assert await frail.read_text("/srv/declared") == "declared\n"
            assert await frail.read_text("/srv/made") == "made\n"

    @requires(Capability.STOP)
    async def test_a_node_is_stopped_for_a_block(self, frail: Node) -> None:
        async with frail.stopped(grace=5):
            assert await _status(frail) is NodeStatus.STOPPED
        assert await _status(frail) is NodeStatus.RUNNING

    @requires(Capability.FULL_DISK)
    async def test_a_disk_is_full_for_a_block(self, frail: Node) -> None:
        write = ["sh", "-c", f"head -c 65536 /dev/zero > {OWN}/written"]
        async with frail.disk_full(OWN):
            full = await frail.exec(write, env={"LC_ALL": "C"})
            assert not full.ok
            assert "No space left" in full.stderr
        assert (await frail.exec(write)).ok
        left = await frail.exec(["sh", "-c", f"rm {OWN}/written; ls -A {OWN}"], check=True)
        assert left.stdout == ""

    @requires(Capability.FULL_DISK)
    async def test_a_full_disk_has_the_room_that_is_to_be_left(self, frail: Node) -> None:
        async with frail.disk_full(OWN, leave_mb=4):
            for size, fits in ((3 << 20, True), (6 << 20, False)):
                script = f"head -c {size} /dev/zero > {OWN}/written; code=$?; rm {OWN}/written; exit $code"
                assert (await frail.exec(script)).ok is fits

    @requires(Capability.MEMORY_LIMIT)
    async def test_memory_is_held_for_a_block(self, frail: Node) -> None:
        async with frail.memory_pressure(50):
            held = max(await _resident(frail))
            assert held >= 0.9 * (256 << 10)
        assert max(await _resident(frail), default=0) < 128 << 10

    async def test_processors_are_busy_for_a_block(self, frail: Node) -> None:
        async with frail.cpu_pressure(workers=2):
            busy = await _computing(frail)
            assert len(busy) >= 2
        assert len(await _computing(frail)) == 0

    async def test_a_fault_that_is_cancelled_leaves_nothing(self, frail: Node) -> None:
        seconds = unique_seconds()

        async def body() -> None:
            async with frail.cpu_pressure(workers=1), frail.process(["sleep", seconds]):
                begun.set()
                await asyncio.sleep(600)

        begun = asyncio.Event()
        task = asyncio.create_task(body())
        waiter = asyncio.create_task(begun.wait())
        await asyncio.wait({task, waiter}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            await task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await _computing(frail)) == 0
        assert await count_sleeping(frail, seconds) == 0

    @requires(Capability.CLOCK)
    async def test_a_clock_is_wrong_for_a_block(self, frail_lab: Lab, frail: Node) -> None:
        async with frail.clock(-7200):
            meanwhile = await _hours_apart(frail_lab)
        assert meanwhile == pytest.approx(await _hours_apart(frail_lab) - 2, abs=0.01)

    @requires(Capability.STOP)
    async def test_a_nemesis_leaves_the_lab_as_it_was(self, frail_lab: Lab, frail: Node) -> None:
        more = {"pause": Capability.PAUSE, "isolate": Capability.PARTITIONS}
        faults = ["kill", *(name for name in more if more[name] in self.capabilities)]
        async with frail_lab.nemesis(seed=4, faults=faults, interval=0, hold=0.05) as nemesis:
            async with asyncio.timeout(600):
                while len(nemesis.steps) < 4 and nemesis.error is None:
                    await asyncio.sleep(0.05)
        assert {node.status for node in frail_lab.nodes.values()} == {NodeStatus.RUNNING}


async def _status(node: Node) -> NodeStatus:
    return await asyncio.to_thread(lambda: node.status)


async def _resident(node: Node) -> list[int]:
    """Return how much memory each of the node's processes holds, in KiB."""
    script = "cat /proc/[0-9]*/status 2>/dev/null | sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p'"
    return [int(size) for size in (await node.exec(script, check=True)).stdout.split()]


async def _computing(node: Node) -> list[str]:
    """Return the shells that only compute: the children of the one with the loop in its command."""
    script = "grep -l 'while :; do :; d[o]ne' /proc/[0-9]*/cmdline 2>/dev/null; true"
    return (await node.exec(script, check=True)).stdout.split()


async def _hours_apart(lab: Lab) -> float:
    times = await lab.exec("date +%s", check=True)
    return (int(times["frail"].stdout) - int(times["witness"].stdout)) / 3600
