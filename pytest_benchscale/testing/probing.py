"""What measuring between nodes promises: it sees what is there, and what is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.testing.base import PAIR, Contract, needs_python, requires

__all__ = ["ProbeContract"]

_BOTH_WAYS = {"alpha": ["beta"], "beta": ["alpha"]}
_NEITHER_WAY: dict[str, list[str]] = {"alpha": [], "beta": []}

SIX = """
metadata: {name: contract-six}
network: {name: six, subnet: "fd42:232::/64"}
nodes: [{name: alpha}, {name: beta}]
"""


# A machine of its own may have to be measured by a program in it: therefore Python.
class ProbeContract(Contract):
    """`lab.probe()` and `lab.reachability()`."""

    @needs_python
    async def test_a_probe_measures_both_ways_between_two_nodes(self, pair: Lab) -> None:
        matrix = await pair.probe(count=4)
        assert {(one.source, one.destination) for one in matrix} == {
            ("alpha", "beta"),
            ("beta", "alpha"),
        }
        for one in matrix:
            assert one.address == str(pair[one.destination].address)
            assert (one.sent, one.answered, len(one.rtts_ms)) == (4, 4, 4), str(matrix)
            assert one.delivered in {4, None}
            assert one.loss_percent == 0
            assert all(0 < time < 10_000 for time in one.rtts_ms)
            assert all(time > 0 for time in one.delays_ms)

    @needs_python
    async def test_reachability_is_a_dict_of_who_reaches_whom(self, pair: Lab) -> None:
        assert await pair.reachability() == _BOTH_WAYS
        assert await pair.reachability(network="lan") == _BOTH_WAYS

    @needs_python
    async def test_measurements_at_the_same_time_do_not_mix(self, pair: Lab) -> None:
        for matrix in await asyncio.gather(*(pair.probe(count=number) for number in (2, 3, 5))):
            numbers = {(one.sent, one.answered) for one in matrix}
            assert numbers in ({(2, 2)}, {(3, 3)}, {(5, 5)})

    @needs_python
    async def test_a_measurement_can_be_cancelled(self, pair: Lab) -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pair.probe(count=1000, interval=1)
        assert time.monotonic() - begun < 30, "it went on to its end"
        assert await pair.reachability() == _BOTH_WAYS

    @requires(Capability.STOP)
    @needs_python
    async def test_a_stopped_node_reaches_nobody_until_it_is_started(self) -> None:
        with self.open(PAIR) as lab:
            await lab["beta"].stop()
            matrix = await lab.probe()
            assert matrix.reachability() == _NEITHER_WAY
            assert [one.sent for one in matrix] == [0, 0]
            await lab["beta"].start()
            assert (await lab.probe(count=1, patience=10)).reachability() == _BOTH_WAYS

    @requires(Capability.PAUSE)
    @needs_python
    async def test_a_paused_node_does_not_keep_others_from_measuring(self, pair: Lab) -> None:
        await pair["beta"].pause()
        try:
            matrix = await pair.probe(patience=0.5)
        finally:
            await pair["beta"].resume()
        assert len(matrix) == 2
        assert await pair.reachability() == _BOTH_WAYS

    @requires(Capability.PARTITIONS)
    @needs_python
    async def test_a_cut_one_way_is_seen_as_one_way(self, pair: Lab) -> None:
        async with pair.partition({"alpha"}, {"beta"}, one_way=True):
            matrix = await pair.probe(patience=0.5)
        assert matrix.reachability() == {"alpha": [], "beta": ["alpha"]}, str(matrix)
        assert matrix["beta", "alpha"].answered == 0
        assert matrix["beta", "alpha"].delivered == matrix["beta", "alpha"].sent

    @needs_python
    async def test_ipv6_is_measured_too(self) -> None:
        with self.open(SIX) as lab:
            matrix = await lab.probe()
        assert matrix.reachability() == _BOTH_WAYS
        assert all(":" in one.address for one in matrix)
        assert all(one.answered == one.sent for one in matrix)

    async def test_an_unknown_network_is_named_with_those_there_are(self, pair: Lab) -> None:
        with pytest.raises(LabError, match=r"'wan'(.|\n)*there are: lan"):
            await pair.probe(network="wan")

    @pytest.mark.parametrize(
        "figures", [{"count": 0}, {"interval": -1.0}, {"patience": 0.0}], ids=str
    )
    async def test_figures_without_sense_are_refused(
        self, pair: Lab, figures: dict[str, float]
    ) -> None:
        name = next(iter(figures))
        with pytest.raises(ValueError, match=name):
            await pair.probe(**figures)  # type: ignore[arg-type]  # what is wrong on purpose
