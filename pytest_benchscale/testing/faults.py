"""What faults of the network promise: they are there, only where they were asked for, and gone afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BackendUnavailable, FaultNotEffective, LabError
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.process import Process
from pytest_benchscale.testing.base import MIB, needs_python, requires
from pytest_benchscale.testing.rates import RateContract

__all__ = ["FaultContract"]

TWICE = """
networks: [{name: left}, {name: right}]
nodes: [{name: alpha}, {name: beta}]
"""

ROUTED = """
metadata: {name: contract-routed}
networks:
  - {name: left, subnet: 10.232.1.0/24, gateway: 10.232.1.1}
  - {name: right, subnet: 10.232.2.0/24, gateway: 10.232.2.1}
nodes:
  - {name: west, networks: [left]}
  - {name: east, networks: [right]}
  - name: router
    networks: [{name: left, address: 10.232.1.1}, {name: right, address: 10.232.2.1}]
"""

SLOW = "{network: {name: lan, conditions: {latency_ms: 50}}, nodes: [{name: a}, {name: b}]}"
LIMITED = """
network: {name: lan, conditions: {bandwidth_kbps: 10000}}
nodes:
  - {name: a, setup: ["true"]}
  - {name: b, network_conditions: {bandwidth_kbps: 0}}
"""

CLOCK = """
import socket, time
listener = socket.create_server(("", 7400))
print("ready", flush=True)
client, _ = listener.accept()
tick = 0
while True:
    client.sendall(b"%d\\n" % tick)
    tick += 1
    time.sleep(0.02)
"""

READER = """
import socket, sys
for line in socket.create_connection((sys.argv[1], 7400), timeout=60).makefile():
    print(line, end="", flush=True)
"""

ALL = {"alpha": ["beta"], "beta": ["alpha"]}
NONE: dict[str, list[str]] = {"alpha": [], "beta": []}


class FaultContract(RateContract):
    """Partitions and conditions, measured from within the nodes."""

    # --- partitions ---

    @requires(Capability.PARTITIONS)
    async def test_a_partition_cuts_both_ways_and_is_gone_afterwards(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}):
            assert await pair.reachability() == NONE
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS)
    async def test_a_partition_may_cut_one_way(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}, one_way=True):
            assert await pair.reachability() == {"alpha": [], "beta": ["alpha"]}
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS)
    @needs_python
    async def test_a_node_that_is_cut_off_still_answers_commands(self, pair: Lab) -> None:
        async with self.serve(pair["beta"], 7200):
            async with pair.partition({"alpha"}, {"beta"}):
                assert not await self.connects(pair["alpha"], pair["beta"].address, 7200)
                await pair["beta"].write_bytes("/tmp/cut-off", bytes(MIB))  # noqa: S108
                assert len(await pair["beta"].read_bytes("/tmp/cut-off")) == MIB  # noqa: S108
            assert await self.connects(pair["alpha"], pair["beta"].address, 7200)

    @requires(Capability.PARTITIONS)
    @needs_python
    async def test_a_connection_stands_still_in_a_partition_and_goes_on_afterwards(
        self, pair: Lab
    ) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        async with beta.process(self.program(CLOCK)) as clock:
            await clock.wait_for_line("ready", timeout=20)
            async with alpha.process(self.program(READER, beta.address)) as reader:
                await reader.wait_for_line("^3$", timeout=20)
                async with pair.partition({"alpha"}, {"beta"}):
                    async with asyncio.timeout(20):  # a cut that is none goes on for ever
                        last = await _newest_line(reader)
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(anext(reader.stdout), 1)
                numbers = [int(await anext(reader.stdout)) for _ in range(5)]
        assert numbers == list(range(last + 1, last + 6))

    @requires(Capability.PARTITIONS, Capability.STOP)
    async def test_a_partition_outlasts_a_restart(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}):
            await pair["beta"].restart()
            assert await pair.reachability() == NONE
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS, Capability.STOP)
    async def test_a_node_may_end_in_a_partition(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}):
            await pair["beta"].kill()
        assert await pair.reachability() == NONE
        await pair["beta"].start()
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS)
    async def test_what_several_partitions_cut_is_whole_when_all_are_gone(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}):
            async with pair.partition("isolate", node="beta"):
                assert await pair.reachability() == NONE
            assert await pair.reachability() == NONE
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS)
    async def test_heal_ends_every_fault(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}):
            assert len(await pair.heal()) == 1
            assert await pair.reachability() == ALL
            assert not pair.faults.active
        assert await pair.reachability() == ALL

    @requires(Capability.PARTITIONS, Capability.STOP)
    async def test_a_partition_with_nothing_to_cut_is_an_error(self, pair: Lab) -> None:
        await pair["beta"].stop()
        try:
            with pytest.raises(FaultNotEffective, match="nothing to cut"):
                async with pair.partition({"alpha"}, {"beta"}):
                    pass
        finally:
            await pair["beta"].start()
        assert not pair.faults.active

    @requires(Capability.PARTITIONS)
    async def test_a_partition_without_effect_is_an_error(
        self, pair: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def apply(self: LinkStates, nodes: object = None) -> None:
            pass

        monkeypatch.setattr(LinkStates, "apply", apply)
        with pytest.raises(FaultNotEffective, match="alpha -> beta") as caught:
            async with pair.partition({"alpha"}, {"beta"}):
                pass
        assert "from \\ to" in str(caught.value)

    @requires(Capability.PARTITIONS)
    async def test_a_partition_without_await(self, pair: Lab) -> None:
        with pair.sync.partition({"alpha"}, {"beta"}):
            assert pair.sync.reachability() == NONE
        assert pair.sync.reachability() == ALL

    @requires(Capability.PARTITIONS)
    async def test_a_partition_of_one_network_leaves_the_other(self) -> None:
        async with self.open_in_loop(TWICE) as lab:
            async with lab.partition({"alpha"}, {"beta"}, network="left"):
                assert await lab.reachability(network="left") == NONE
                assert await lab.reachability(network="right") == ALL
            assert await lab.reachability(network="left") == ALL

    @requires(Capability.PARTITIONS)
    async def test_a_partition_reaches_through_a_router(self) -> None:
        async with self.open_in_loop(ROUTED) as lab:
            async with lab.partition({"west"}, {"east"}):
                assert await lab.reachability() == {
                    "west": ["router"],
                    "east": ["router"],
                    "router": ["west", "east"],
                }
            assert (await lab.reachability())["west"] == ["east", "router"]

    # --- conditions ---

    @requires(Capability.CONDITIONS)
    @needs_python
    async def test_a_declared_rate_is_there_and_an_attachment_wins(self) -> None:
        async with self.open_in_loop(LIMITED) as lab, self._sink(lab["a"]), self._sink(lab["b"]):
            await self._keeps_rate(lab["a"], lab["b"], 9500, rel=0.1)
            assert await self._rate(lab["b"], lab["a"]) > 20_000

    @requires(Capability.CONDITIONS)
    @needs_python
    async def test_a_rate_lasts_as_long_as_its_block_and_inner_ones_win(self, pair: Lab) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        async with self._sink(beta):
            async with alpha.impair(bandwidth_kbps=20_000):
                async with alpha.impair(bandwidth_kbps=5_000):
                    await self._keeps_rate(alpha, beta, 4750, rel=0.1)
                await self._keeps_rate(alpha, beta, 19_000, rel=0.15)
            assert await self._rate(alpha, beta) > 25_000

    @requires(Capability.CONDITIONS)
    @needs_python
    async def test_a_rate_between_two_nodes_is_for_what_they_send_to_each_other(
        self, pair: Lab
    ) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        async with self._sink(beta), self._sink(alpha):
            async with pair.impair("alpha", "beta", bandwidth_kbps=5_000):
                await self._keeps_rate(alpha, beta, 4750, rel=0.1)
                await self._keeps_rate(beta, alpha, 4750, rel=0.1)
            assert await self._rate(beta, alpha) > 25_000

    @requires(Capability.CONDITIONS, Capability.STOP)
    @needs_python
    async def test_conditions_that_were_set_stay_over_a_restart_until_they_are_taken_back(
        self, pair: Lab
    ) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        await alpha.set_conditions(bandwidth_kbps=5_000)
        try:
            await alpha.restart()
            async with self._sink(beta):
                await self._keeps_rate(alpha, beta, 4750, rel=0.1)
        finally:
            await alpha.set_conditions()
        async with self._sink(beta):
            assert await self._rate(alpha, beta) > 25_000

    @requires(Capability.CONDITIONS)
    async def test_figures_that_cannot_be_are_refused(self, pair: Lab) -> None:
        figures: Sequence[Mapping[str, Any]] = (
            {"latency": 5},
            {"latency_ms": -1},
            {"packet_loss_percent": 101},
            {},
        )
        for wrong in figures:
            with pytest.raises(LabError):
                pair["alpha"].impair(**wrong)
        with pytest.raises(LabError, match="did you mean 'satellite'"):
            pair["alpha"].impair(preset="satelite")

    @requires(Capability.CONDITIONS)
    @needs_python
    async def test_declared_latency_is_there(self) -> None:
        with self._as_the_kernel_can():
            async with self.open_in_loop(SLOW) as lab:
                matrix = await lab.probe()
                assert (matrix["a", "b"].median_rtt_ms or 0) > 100

    @requires(Capability.CONDITIONS)
    async def test_an_impairment_lasts_as_long_as_its_block(self, pair: Lab) -> None:
        with self._as_the_kernel_can():
            async with pair["alpha"].impair(latency_ms=200):
                matrix = await pair.probe()
                assert (matrix["alpha", "beta"].median_rtt_ms or 0) > 200
        matrix = await pair.probe()
        assert (matrix["alpha", "beta"].median_rtt_ms or 1000) < 200

    @staticmethod
    @contextmanager
    def _as_the_kernel_can() -> Iterator[None]:
        """Skip the test, visibly, on a kernel without sch_netem, where its steps must say just that."""
        try:
            yield
        except BackendUnavailable as error:
            if "sch_netem" in error.brief and "modprobe sch_netem" in str(error.resolution):
                pytest.skip("this kernel has no sch_netem")
            raise


async def _newest_line(reader: Process) -> int:
    """Return the last number that has come; what comes later does not count."""
    newest = -1
    while True:
        try:
            newest = int(await asyncio.wait_for(anext(reader.stdout), 0.5))
        except TimeoutError:
            return newest
