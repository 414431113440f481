"""A router between two networks, and what happens without it.

A node can be stopped, killed, paused and started again; it keeps its files, addresses and links.
The lab is shared by all tests of its topology, so a test leaves it as it found it: here by a
context manager that switches the router on again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pytest_benchscale import Lab, Node

pytestmark = pytest.mark.topology("04_router.yaml")


async def route_to_bob(lab: Lab) -> list[str]:
    """Return the addresses on alice's way to bob."""
    trace = await lab["alice"].exec("/srv/trace-route bob")
    return trace.stdout.split()


@asynccontextmanager
async def without_power(node: Node) -> AsyncIterator[None]:
    """Pull a node's plug for the duration of a block."""
    await node.kill()
    try:
        yield
    finally:
        await node.start()


async def test_the_way_leads_through_the_router(lab: Lab) -> None:
    router, bob = lab["router"], lab["bob"]

    assert await route_to_bob(lab) == [str(router.addresses["left"]), str(bob.address)]


async def test_the_router_counts_what_it_forwards(lab: Lab) -> None:
    async def forwarded() -> int:
        counters = (await lab["router"].exec("cat /proc/net/snmp", check=True)).stdout
        names, values = (line.split() for line in counters.splitlines() if line.startswith("Ip:"))
        return int(values[names.index("ForwDatagrams")])

    before = await forwarded()
    await route_to_bob(lab)

    assert await forwarded() > before


async def test_without_the_router_there_is_no_way(lab: Lab) -> None:
    async with without_power(lab["router"]):
        assert await route_to_bob(lab) == []

    assert len(await route_to_bob(lab)) == 2


async def test_a_restarted_router_routes_again(lab: Lab) -> None:
    before = lab["router"].addresses

    await lab["router"].restart()

    assert lab["router"].addresses == before
    assert len(await route_to_bob(lab)) == 2
