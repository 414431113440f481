"""Three virtual machines on two networks: west - router - east.

One lab serves all tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_benchscale import Lab, Node
from pytest_benchscale.lab.plan import mac_of
from pytest_benchscale.topology.loader import load_text
from tests.daemons.guests import boot_reference
from tests.daemons.needs import boots_more

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio, boots_more]

TOPOLOGY = f"""
networks:
  - {{name: left, subnet: 10.83.1.0/24, gateway: 10.83.1.1}}
  - {{name: right, subnet: 10.83.2.0/24, gateway: 10.83.2.1}}
nodes:
  - &machine
    name: router
    image: "{boot_reference()}"
    memory_mb: 512
    vcpus: 2
    networks: [{{name: left, address: 10.83.1.1}}, {{name: right, address: 10.83.2.1}}]
  - {{<<: *machine, name: west, networks: [left]}}
  - {{<<: *machine, name: east, networks: [{{name: right, address: 10.83.2.77}}]}}
"""

# Tells whoever connects who that is, by the address that the connection comes from.
SERVER = """
import socket
with socket.create_server(("", 7777)) as server:
    print("listens", flush=True)
    while True:
        connection, (host, _) = server.accept()
        connection.sendall(host.encode())
        connection.close()
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 7777), timeout=3) as connection:
    print(connection.recv(100).decode())
"""
# What has to be the same after a restart: devices, their MACs and addresses, routes, names, forwarding.
IDENTITY = """
uname -n
cd /sys/class/net
for device in *; do echo "$device $(cat $device/address)"; done
ip -o -4 address show | awk '{print $2, $4}'
ip -4 route show | sort
cat /etc/hosts /proc/sys/net/ipv4/ip_forward
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Bring up the three machines."""
    with Lab.open_sync(load_text(TOPOLOGY), backend="libvirt") as lab:
        yield lab


async def seen_as(client: Node, server: Node) -> str:
    """Return what the server takes the client for, that knows it by its name."""
    async with server.process(["python3", "-c", SERVER]) as process:
        await process.wait_for_line("listens", timeout=30)
        asked = await client.exec(["python3", "-c", CLIENT, server.name])
    return asked.stdout.strip() or asked.stderr.splitlines()[-1]


async def reach_each_other(lab: Lab) -> bool:
    west, east = lab["west"], lab["east"]
    ways = [await seen_as(west, east), await seen_as(east, west)]
    return ways == [str(west.address), str(east.address)]


async def test_the_router_has_an_address_on_each_network(lab: Lab) -> None:
    router = lab["router"]
    assert {name: str(one) for name, one in router.addresses.items()} == {
        "left": "10.83.1.1",
        "right": "10.83.2.1",
    }
    for network, device in router.interfaces.items():
        shown = await router.exec(f"ip -o -4 address show {device}", check=True)
        assert f" {router.addresses[network]}/24 " in shown.stdout
        mac = await router.read_text(f"/sys/class/net/{device}/address")
        assert mac.strip() == mac_of("router", network)


async def test_all_names_resolve_on_each(lab: Lab) -> None:
    west, east, router = lab["west"], lab["east"], lab["router"]
    for node in (west, east, router):
        # Of the router's addresses, the one that is on a network of the node's own.
        near = router.addresses["right" if node is east else "left"]
        for name, address in {"west": west.address, "east": east.address, "router": near}.items():
            found = await node.exec(["getent", "ahostsv4", name], check=True)
            assert found.stdout.split()[0] == str(address), (node.name, name)


async def test_west_and_east_reach_each_other_by_name(lab: Lab) -> None:
    assert await reach_each_other(lab)


async def test_their_way_leads_through_the_router(lab: Lab) -> None:
    west, east, router = lab["west"], lab["east"], lab["router"]
    await router.write_text("/proc/sys/net/ipv4/ip_forward", "0")
    try:
        assert "timed out" in await seen_as(west, east)
    finally:
        await router.write_text("/proc/sys/net/ipv4/ip_forward", "1")
    assert await reach_each_other(lab)


@pytest.mark.parametrize("name", ["router", "west"])
async def test_a_node_is_the_same_after_a_restart(lab: Lab, name: str) -> None:
    node = lab[name]

    async def told(script: str) -> str:
        return (await node.exec(script, check=True)).stdout

    before, boot = await told(IDENTITY), await told("cat /proc/sys/kernel/random/boot_id")
    addresses = dict(node.addresses)
    await node.restart()
    assert await told("cat /proc/sys/kernel/random/boot_id") != boot
    assert await told(IDENTITY) == before
    assert dict(node.addresses) == addresses
    assert await reach_each_other(lab)
