"""Rates, by what arrives: of TCP, and over a long way."""

from __future__ import annotations

import pytest

from pytest_benchscale import Lab
from tests.netem.measuring import Table, agents, next_port, rate_of, until

pytestmark = [pytest.mark.topology("rates.yaml", backend="local"), pytest.mark.asyncio]

DECLARED = {"slow": 1, "middle": 10, "fast": 100, "far": 10}  # Mbit/s
FRAMES = 1514 / 1448  # what a full frame of TCP is to its payload


# Over a long way, TCP's first window is too large: for a second the receiver waits for what was lost,
# and then has all that came meanwhile at once. That is over before anything is counted.
@pytest.mark.parametrize(
    ("networks", "seconds", "skip"),
    [(["slow", "middle"], 4.0, 1.0), (["fast"], 2.5, 0.5), (["far"], 8.0, 4.0)],
    ids=["1 and 10", "100", "long way"],
)
async def test_tcp_gets_the_rate(
    lab: Lab, table: Table, networks: list[str], seconds: float, skip: float
) -> None:
    ports = {network: next_port() for network in networks}
    async with agents(lab, "a", "b") as (a, b):
        flows = []
        for network, port in ports.items():
            where = {"address": str(lab["b"].addresses[network]), "port": port}
            await b.ask("listen", name=network, kind="tcp", **where)
            flows.append(where)

        async def measure() -> dict[str, float]:
            """Return Mbit/s of payload."""
            await a.ask("stream", flows=flows, seconds=seconds)
            arrived = await b.ask("report", names=networks, quiet=0.3)
            return {
                network: rate_of(bins, skip) / 1e6
                for network, bins in zip(networks, arrived, strict=True)
            }

        rates = await until(
            measure,
            lambda it: all(0.9 * DECLARED[name] <= FRAMES * rate for name, rate in it.items()),
        )
    off = []
    for network, payload in rates.items():
        declared = DECLARED[network]
        name = "TCP, 50 ms each way" if network == "far" else "TCP"
        table.add(
            f"rate of {name}",
            f"{declared} Mbit/s",
            f"{payload * FRAMES:.2f} Mbit/s ({payload:.2f} of payload)",
            "10 %",
        )
        if not 0.9 * declared <= payload * FRAMES <= 1.1 * declared:
            off.append(network)
    assert not off, rates
