"""What happens to a node between its start and its end, whoever asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.results import ExecResult
from pytest_benchscale.testing.base import (
    Contract,
    count_sleeping,
    needs_python,
    requires,
    unique_seconds,
    until_sleeping,
)

__all__ = ["LifecycleContract"]

MORTAL = """
metadata: {name: contract-lifecycle}
networks: [{name: lan}, {name: wan}]
nodes:
  - name: mortal
  - name: witness
"""

MAIN_COMMAND = """
metadata: {name: contract-main-command}
nodes:
  - name: mortal
    command: [sh, -c, "trap 'echo farewell; exit 0' TERM; trap 'echo crash >&2; exit 3' USR1;
      echo $$ > /run/main.pid; echo ready; while :; do sleep 0.05; done"]
    wait_for: [{log: ready}]
"""


class LifecycleContract(Contract):
    """Start, stop, kill, pause, and what ends by itself."""

    @pytest.fixture(scope="class")
    @classmethod
    def mortals(cls, _backend_under_test: None) -> Iterator[Lab]:
        """Two nodes on two networks, one of them to be stopped, killed and paused."""
        with cls.open(MORTAL) as lab:
            yield lab

    @pytest.fixture
    def witness(self, mortals: Lab) -> Node:
        """The node that stays up."""
        return mortals["witness"]

    @pytest.fixture
    def mortal(self, mortals: Lab) -> Node:
        """A running node, whatever the test before did to it."""
        node = mortals["mortal"]
        if node.status is NodeStatus.PAUSED:
            node.sync.resume()
        elif node.status is not NodeStatus.RUNNING:
            node.sync.start()
        return node

    async def test_a_node_that_is_up_is_running(self, mortal: Node) -> None:
        assert _status(mortal) is NodeStatus.RUNNING
        assert (await mortal.exec("echo alive")).stdout == "alive\n"

    @requires(Capability.STOP)
    async def test_a_stopped_node_is_stopped_until_started(self, mortal: Node) -> None:
        await mortal.stop()
        assert _status(mortal) is NodeStatus.STOPPED
        await mortal.start()
        assert _status(mortal) is NodeStatus.RUNNING
        assert (await mortal.exec("echo again")).stdout == "again\n"

    @requires(Capability.STOP)
    async def test_stop_and_start_keep_addresses_interfaces_and_files(self, mortal: Node) -> None:
        before = (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal))
        await mortal.write_text("/srv/keep", "kept")
        await mortal.stop()
        await mortal.start()
        assert (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal)) == before
        assert await mortal.read_text("/srv/keep") == "kept"

    @requires(Capability.STOP)
    async def test_kill_and_start_keep_addresses_interfaces_and_files(self, mortal: Node) -> None:
        before = (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal))
        await mortal.write_text("/srv/keep", "kept")
        await mortal.exec("sync")
        await mortal.kill()
        assert _status(mortal) is NodeStatus.STOPPED
        await mortal.start()
        assert _status(mortal) is NodeStatus.RUNNING
        assert (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal)) == before
        assert await mortal.read_text("/srv/keep") == "kept"

    @requires(Capability.STOP)
    @needs_python
    async def test_links_and_names_work_again_after_a_start(
        self, mortal: Node, witness: Node
    ) -> None:
        for end in (mortal.stop, mortal.kill):
            await end()
            assert not await self.connects(witness, mortal.addresses["lan"], 7000)
            await mortal.start()
            for network in ("lan", "wan"):
                async with self.serve(mortal, 7000):
                    assert await self.connects(witness, mortal.addresses[network], 7000)
                    assert await self.connects(witness, "mortal", 7000)
                async with self.serve(witness, 7000):
                    assert await self.connects(mortal, witness.addresses[network], 7000)

    @requires(Capability.STOP)
    async def test_restart_ends_every_process_and_keeps_files(self, mortal: Node) -> None:
        seconds = unique_seconds()
        await mortal.exec(f"sleep {seconds} & setsid sleep {seconds} & echo kept > /srv/keep")
        await until_sleeping(mortal, seconds, 2)
        await mortal.restart()
        assert _status(mortal) is NodeStatus.RUNNING
        assert await count_sleeping(mortal, seconds) == 0
        assert await mortal.read_text("/srv/keep") == "kept\n"

    @requires(Capability.STOP)
    async def test_a_call_on_a_stopped_node_says_that_it_is_stopped(
        self, mortal: Node, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        host = tmp_path_factory.mktemp("host")
        (host / "file").write_text("text")
        await mortal.stop()
        calls = [
            mortal.exec("true"),
            mortal.put(host / "file", "/srv/file"),
            mortal.get("/etc/passwd", host / "copy"),
            mortal.read_text("/etc/passwd"),
            mortal.write_text("/srv/file", "text"),
            mortal.process("true").__aenter__(),
        ]
        for call in calls:
            async with asyncio.timeout(10):
                with pytest.raises(LabError, match="stopped") as caught:
                    await call
            assert caught.value.node == "mortal"
            assert caught.value.resolution

    @requires(Capability.STOP)
    async def test_a_command_in_flight_fails_when_its_node_is_killed(self, mortal: Node) -> None:
        seconds = unique_seconds()
        command = asyncio.create_task(mortal.exec(["sleep", seconds]))
        await until_sleeping(mortal, seconds)
        await mortal.kill()
        async with asyncio.timeout(20):
            with pytest.raises(BenchscaleError, match="mortal"):
                await command

    @requires(Capability.STOP)
    async def test_a_command_in_flight_ends_when_its_node_is_stopped(self, mortal: Node) -> None:
        seconds = unique_seconds()
        command = asyncio.create_task(mortal.exec(["sleep", seconds]))
        await until_sleeping(mortal, seconds)
        await mortal.stop()
        async with asyncio.timeout(20):
            (outcome,) = await asyncio.gather(command, return_exceptions=True)
        if isinstance(outcome, ExecResult):
            assert outcome.returncode < 0  # it saw SIGTERM before its node was gone
        else:
            assert isinstance(outcome, BenchscaleError)
            assert "mortal" in str(outcome)

    @requires(Capability.STOP)
    async def test_a_process_in_flight_fails_when_its_node_ends(self, mortal: Node) -> None:
        async with asyncio.timeout(30), mortal.process("echo up; sleep 10000") as process:
            await process.wait_for_line("up", timeout=10)
            await mortal.kill()
            with pytest.raises(BenchscaleError, match="mortal"):
                await process.wait()

    @requires(Capability.STOP)
    async def test_stopping_one_node_does_not_touch_another(
        self, mortal: Node, witness: Node
    ) -> None:
        seconds = unique_seconds()
        await witness.exec(f"sleep {seconds} &", check=True)
        await until_sleeping(witness, seconds)
        await mortal.kill()
        assert _status(witness) is NodeStatus.RUNNING
        assert await count_sleeping(witness, seconds) == 1

    @requires(Capability.STOP)
    async def test_every_wait_fails_at_once_when_the_node_ends(self, mortal: Node) -> None:
        waits = _wait_in_vain(mortal)
        await asyncio.sleep(0.2)  # let them look at least once
        assert not any(wait.done() for wait in waits)
        await mortal.kill()
        async with asyncio.timeout(20):
            for wait in waits:
                with pytest.raises((LabError, NodeDied), match="mortal"):
                    await wait

    @requires(Capability.PAUSE)
    async def test_a_paused_node_stands_still_until_resumed(self, mortal: Node) -> None:
        command = asyncio.create_task(mortal.exec("echo > /tmp/begun; sleep 1; echo done"))
        await mortal.wait_for_file("/tmp/begun", timeout=10)  # noqa: S108  the node's own
        await mortal.pause()
        assert _status(mortal) is NodeStatus.PAUSED
        await asyncio.sleep(1.5)
        assert not command.done()
        await mortal.resume()
        assert _status(mortal) is NodeStatus.RUNNING
        assert (await command).stdout == "done\n"

    @requires(Capability.PAUSE)
    async def test_pausing_also_holds_what_starts_at_that_moment(self, mortal: Node) -> None:
        async def begin(delay: float) -> ExecResult:
            await asyncio.sleep(delay)
            return await mortal.exec("sleep 0.5; echo done")

        def ended() -> list[bool]:
            return [command.done() and not command.exception() for command in commands]

        commands = [asyncio.create_task(begin(number / 1000)) for number in range(20)]
        await asyncio.sleep(0.01)
        await mortal.pause()
        await asyncio.sleep(0.3)  # for what had ended before the node stood still
        before = ended()
        assert not all(before)
        await asyncio.sleep(1)
        assert ended() == before
        await mortal.resume()
        for outcome in await asyncio.gather(*commands, return_exceptions=True):
            # Who came after the pause was refused.
            if isinstance(outcome, ExecResult):
                assert outcome.stdout == "done\n"
            else:
                assert isinstance(outcome, LabError)

    @requires(Capability.PAUSE)
    async def test_pause_and_resume_keep_processes_addresses_and_files(self, mortal: Node) -> None:
        seconds = unique_seconds()
        await mortal.exec(f"sleep {seconds} & echo kept > /srv/keep", check=True)
        await until_sleeping(mortal, seconds)
        before = (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal))
        await mortal.pause()
        await mortal.resume()
        assert (mortal.addresses, mortal.interfaces, await _kernel_devices(mortal)) == before
        assert await count_sleeping(mortal, seconds) == 1
        assert await mortal.read_text("/srv/keep") == "kept\n"

    @requires(Capability.PAUSE)
    async def test_a_call_on_a_paused_node_says_that_it_is_paused(self, mortal: Node) -> None:
        await mortal.pause()
        async with asyncio.timeout(10):
            with pytest.raises(LabError, match="paused") as caught:
                await mortal.exec("true")
        assert caught.value.node == "mortal"
        assert caught.value.resolution

    # --- the main command ---

    @requires(Capability.MAIN_COMMAND)
    async def test_the_log_is_what_the_main_command_says(self) -> None:
        with self.open(MAIN_COMMAND) as lab:
            assert "ready" in await lab["mortal"].logs()

    @requires(Capability.LOG_TIMES)
    async def test_the_lines_of_a_log_have_their_times(self) -> None:
        speaks = Capability.MAIN_COMMAND in self.capabilities
        with self.open(MAIN_COMMAND if speaks else MORTAL) as lab:
            lines = (await lab["mortal"].logs(timestamps=True)).splitlines()
            plain = (await lab["mortal"].logs()).splitlines()
        assert [line.partition(" ")[2] for line in lines] == plain
        assert not speaks or plain == ["ready"]
        for line in lines:
            written = datetime.fromisoformat(line.partition(" ")[0])
            assert abs(datetime.now(UTC) - written) < timedelta(minutes=5)

    @requires(Capability.MAIN_COMMAND)
    async def test_a_node_whose_main_command_ends_is_dead(self) -> None:
        with self.open(MAIN_COMMAND) as lab:
            mortal = lab["mortal"]
            waits = _wait_in_vain(mortal)
            await asyncio.sleep(0.2)  # let them look at least once
            await _signal_main(mortal, "USR1")
            async with asyncio.timeout(20):
                for wait in waits:
                    with pytest.raises(NodeDied, match="crash"):
                        await wait
                assert _status(mortal) is NodeStatus.DEAD
                with pytest.raises(NodeDied):
                    await mortal.exec("true")
            assert "crash" in await mortal.logs()

    @requires(Capability.MAIN_COMMAND)
    async def test_a_dead_node_can_be_started_again(self) -> None:
        with self.open(MAIN_COMMAND) as lab:
            mortal = lab["mortal"]
            await mortal.write_text("/srv/keep", "kept")
            await _signal_main(mortal, "KILL")
            async with asyncio.timeout(20):
                while _status(mortal) is not NodeStatus.DEAD:
                    await asyncio.sleep(0.02)
            await mortal.start()
            assert _status(mortal) is NodeStatus.RUNNING
            assert await mortal.read_text("/srv/keep") == "kept"

    @requires(Capability.MAIN_COMMAND)
    async def test_stop_lets_the_main_command_say_farewell(self) -> None:
        with self.open(MAIN_COMMAND) as lab:
            mortal = lab["mortal"]
            await mortal.stop()
            assert _status(mortal) is NodeStatus.STOPPED
            assert "farewell" in await mortal.logs()


def _status(node: Node) -> NodeStatus:
    """Return the status as it is now; a type checker takes a property for what it was before."""
    return node.status


def _wait_in_vain(node: Node) -> Sequence[asyncio.Task[object]]:
    """Start every kind of wait, for what will not happen."""
    return [
        asyncio.create_task(node.wait_for_port(9, timeout=60)),
        asyncio.create_task(node.wait_for_exec("false", timeout=60)),
        asyncio.create_task(node.wait_for_file("/no/such/file", timeout=60)),
        asyncio.create_task(node.wait_for_log("no such line", timeout=60)),
    ]


async def _signal_main(node: Node, signal: str) -> None:
    """Send a signal to the main command; the node may die faster than this is told."""
    with suppress(NodeDied):
        await node.exec(f"kill -s {signal} $(cat /run/main.pid)", check=True)


async def _kernel_devices(node: Node) -> str:
    """Return what the kernel of the node says of its devices: name and MAC address."""
    devices = await node.exec("cd /sys/class/net; for d in *; do echo $d $(cat $d/address); done")
    return devices.check().stdout
