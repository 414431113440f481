"""Latency, loss and the rest, on networks of IPv4 and IPv6: declared, and changed while the test runs."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import pytest

from pytest_benchscale import Lab
from tests.netem.measuring import Probes, Table, agents, probes_between, until

pytestmark = [pytest.mark.topology("links.yaml", backend="local"), pytest.mark.asyncio]

NETWORKS = ("lan", "lan6")


def address(lab: Lab, node: str, network: str = "lan") -> str:
    return str(lab[node].addresses[network])


def check(table: Table, what: str, declared: float, trip: float, bare: float) -> None:
    """Compare a round trip with the sum of the latencies; `bare` is what it takes without any."""
    table.add(
        what,
        f"{declared:.0f} ms",
        f"{trip:.2f} ms ({trip - bare:.2f} more than without)",
        "-1/+2 ms",
    )
    assert declared - 1 <= trip - bare <= declared + 2


async def test_a_round_trip_takes_the_sum_of_both_latencies(lab: Lab, table: Table) -> None:
    async with agents(lab, "a", "c") as (a, c):
        for network in NETWORKS:
            bare = await c.median_trip(address(lab, "d", network))
            trip = await a.median_trip(address(lab, "b", network), bare + 52)
            table.add(f"round trip without conditions, {network}", "", f"{bare:.2f} ms")
            check(table, f"round trip, {network}, median of 20", 50, trip, bare)


async def test_what_is_declared_is_there_before_the_first_setup_command(
    lab: Lab, table: Table
) -> None:
    text = await lab["b"].read_text("/root/round-trips")
    shortest = float(text.rpartition("=")[2].split("/")[0])
    table.add("shortest round trip of a setup command", "50 ms", f"{shortest:.2f} ms", "-1/+5 ms")
    assert 49 <= shortest <= 55


@pytest.mark.parametrize("network", NETWORKS)
async def test_30_percent_loss_loses_20_to_40_percent_of_200(
    lab: Lab, table: Table, network: str
) -> None:
    async with (
        agents(lab, "c", "d") as (c, d),
        lab["c"].impair(packet_loss_percent=30, network=network, attest=False),
    ):
        probes = await probes_between(c, d, address(lab, "d", network))
        back = await probes_between(d, c, address(lab, "c", network))
    table.add(f"loss of 200, {network}", "30 %", f"{probes.lost:.1f} %", "20-40 %")
    table.add(f"loss of 200 the other way, {network}", "0 %", f"{back.lost:.1f} %", "0 %")
    assert 20 <= probes.lost <= 40
    assert back.lost == 0


@pytest.mark.parametrize(("distribution", "beyond"), [("uniform", (0, 6)), ("normal", (20, 45))])
async def test_jitter_spreads_the_delay_around_the_latency(
    lab: Lab, table: Table, distribution: str, beyond: tuple[float, float]
) -> None:
    async with (
        agents(lab, "c", "d") as (c, d),
        lab["c"].impair(
            latency_ms=60, jitter_ms=20, jitter_distribution=distribution, attest=False
        ),
    ):

        async def measure() -> tuple[float, float, float]:
            delays = (await probes_between(c, d, address(lab, "d"))).delays
            outside = 100 * sum(not 39 < delay < 82 for delay in delays) / len(delays)
            return statistics.median(delays), statistics.stdev(delays), outside

        expected = 20 if distribution == "normal" else 20 / 3**0.5
        middle, spread, outside = await until(
            measure,
            lambda it: it[0] <= 65 and it[1] <= 1.25 * expected and it[2] <= beyond[1],
        )
    table.add(f"delay with {distribution} jitter, median", "60 ms", f"{middle:.1f} ms", "-5/+5 ms")
    table.add(
        f"its standard deviation, {distribution}", f"{expected:.1f} ms", f"{spread:.1f} ms", "25 %"
    )
    table.add(
        f"more than 20 ms off, {distribution}",
        "32 %" if distribution == "normal" else "0 %",
        f"{outside:.0f} %",
        f"{beyond[0]}-{beyond[1]} %",
    )
    assert 55 <= middle <= 65
    assert spread == pytest.approx(expected, rel=0.25)
    assert beyond[0] <= outside <= beyond[1]


async def test_packets_are_duplicated_corrupted_and_reordered(lab: Lab, table: Table) -> None:
    async with agents(lab, "c", "d") as (c, d):

        async def with_(size: int = 64, **figures: Any) -> Probes:
            async with lab["c"].impair(network="lan", attest=False, **figures):
                return await probes_between(c, d, address(lab, "d"), size=size)

        duplicated = await with_(duplicate_percent=20)
        corrupted = await with_(corrupt_percent=20, size=1000)
        reordered = await with_(latency_ms=30, reorder_percent=20)
        before = await with_(latency_ms=30)
    table.add("arrived twice, of 200", "20 %", f"{duplicated.twice:.1f} %", "10-30 %")
    table.add("arrived corrupt, of 200", "20 %", f"{corrupted.corrupt:.1f} %", "9-30 %")
    table.add("overtook, of 200", "20 %", f"{reordered.overtook:.1f} %", "10-30 %")
    assert 10 <= duplicated.twice <= 30
    assert 9 <= corrupted.corrupt <= 30  # one in 25 is hit where it then does not arrive
    assert 10 <= reordered.overtook <= 30
    assert (before.twice, before.corrupt, before.overtook, before.lost) == (0, 0, 0, 0)


# The least of four: see `until`.
async def test_a_change_takes_effect_within_50_ms(lab: Lab, table: Table) -> None:
    async with agents(lab, "c", "d") as (c, d):

        async def measure() -> tuple[float, float]:
            """Return the ms until the first probe that was sent after a change and shows it."""
            running = asyncio.create_task(
                probes_between(c, d, address(lab, "d"), count=250, interval=0.006)
            )
            await asyncio.sleep(0.8)  # they are under way by then; if not, nothing is found below
            begun = time.time()
            async with lab["c"].impair(latency_ms=100, network="lan", attest=False):
                await asyncio.sleep(0.3)
                ended = time.time()
            probes = await running
            seen = [(probes.sent[number], delay) for number, delay, _ in probes.arrivals]
            begin = min(sent for sent, delay in seen if sent > begun and delay > 90) - begun
            end = min(sent for sent, delay in seen if sent > ended and delay < 50) - ended
            return 1000 * begin, 1000 * end

        found = [await measure() for _ in range(4)]
    begin, end = (min(times) for times in zip(*found, strict=True))
    table.add("until an impairment acts, best of 4", "", f"{begin:.0f} ms", "50 ms")
    table.add("until it is gone, best of 4", "", f"{end:.0f} ms", "50 ms")
    assert begin <= 50
    assert end <= 50


async def test_nested_impairments_restore_what_was_before(lab: Lab, table: Table) -> None:
    a, there = lab["a"], address(lab, "b")
    async with agents(lab, "a", "c") as (agent, c):
        bare = await c.median_trip(address(lab, "d"))
        trips = []

        async def measure(expected: float) -> None:
            trip = await agent.median_trip(there, bare + expected + 2)
            trips.append(f"{trip:.1f}")
            assert expected - 1 <= trip - bare <= expected + 2

        await measure(50)
        async with a.impair(latency_ms=40, attest=False):
            await measure(70)
            async with a.impair(latency_ms=70, attest=False):
                await measure(100)
            await measure(70)
        await measure(50)
        await a.set_conditions(latency_ms=50)
        await measure(80)
        await a.set_conditions()
        await measure(50)
    table.add(
        "20 > 40 > 70 > 40 > 20 > 50 > 20 ms, and 30 back",
        "50, 70, 100, 70, 50, 80, 50 ms",
        ", ".join(trips),
    )


async def test_the_conditions_of_a_pair_leave_others_alone(lab: Lab, table: Table) -> None:
    async with agents(lab, "c", "d") as (c, d):
        bare = await c.median_trip(address(lab, "e"))
        async with lab.impair("c", "d", latency_ms=25, attest=False):
            for network in NETWORKS:
                pair = await c.median_trip(address(lab, "d", network), bare + 52)
                check(table, f"a pair of nodes, {network}", 50, pair, bare)
            for agent in (c, d):
                other = await agent.median_trip(address(lab, "e"), bare + 2)
                table.add("its nodes and a third one", "0 ms", f"{other:.2f} ms", "-1/+2 ms")
                assert abs(other - bare) <= 2


async def test_conditions_survive_a_restart(lab: Lab, table: Table) -> None:
    await lab["b"].restart()
    async with agents(lab, "a", "b", "c") as (a, b, c):
        bare = await c.median_trip(address(lab, "d"))
        there = await a.median_trip(address(lab, "b"), bare + 52)
        back = await b.median_trip(address(lab, "a"), bare + 52)
    check(table, "round trip after a restart", 50, there, bare)
    check(table, "the other way round", 50, back, bare)
