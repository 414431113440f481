"""What a network promises: names, addresses, reach, and no reach beyond."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pytest_benchscale.errors import WaitTimeout
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import MIB, PAIR, Contract, needs_python

__all__ = ["NetworkContract"]

CAMPUS = """
metadata: {name: contract-campus}
networks:
  - {name: lan}
  - {name: wan, subnet: 10.231.0.0/24}
  - {name: six, subnet: "fd42:231::/64"}
  - {name: left, subnet: 10.231.1.0/24, gateway: 10.231.1.1}
  - {name: right, subnet: 10.231.2.0/24, gateway: 10.231.2.1}
nodes:
  - {name: alpha, networks: [lan, six]}
  - {name: beta, networks: [lan, wan, six]}
  - {name: gamma, networks: [{name: wan, address: 10.231.0.77}]}
  - {name: west, networks: [left]}
  - {name: east, networks: [right]}
  - name: router
    networks: [{name: left, address: 10.231.1.1}, {name: right, address: 10.231.2.1}]
"""

LISTEN = """
import socket
listener = socket.socket(type=socket.SOCK_DGRAM)
listener.bind(("", 7300))
print("listening", flush=True)
while True:
    print(listener.recv(100).decode(), flush=True)
"""

BROADCAST = """
import socket, sys
sender = socket.socket(type=socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
sender.sendto(sys.argv[2].encode(), ("255.255.255.255", 7300))
"""

UNROUTED = "192.0.2.1"  # RFC 5737: documentation, belongs to nobody


class NetworkContract(Contract):
    """Networks. Who reaches whom in the campus: alpha and beta; beta and gamma; west and east."""

    @pytest.fixture(scope="class")
    @classmethod
    def campus(cls, _backend_under_test: None) -> Iterator[Lab]:
        """Three networks of their own, and two with a router between them."""
        with cls.open(CAMPUS) as lab:
            yield lab

    async def test_names_resolve_to_the_addresses_on_shared_networks(self, campus: Lab) -> None:
        for node in campus.nodes.values():
            for other in campus.nodes.values():
                shared = node.addresses.keys() & other.addresses.keys()
                if node is not other and shared:
                    expected = {other.addresses[network] for network in shared}
                    assert await _resolve(node, other.name) in expected

    async def test_the_name_of_a_node_resolves_on_itself(self, campus: Lab) -> None:
        for node in campus.nodes.values():
            address = await _resolve(node, node.name)
            assert address.is_loopback or address in node.addresses.values()

    async def test_names_resolve_through_a_router(self, campus: Lab) -> None:
        west, east = campus["west"], campus["east"]
        assert await _resolve(west, "east") == east.address
        assert await _resolve(east, "west") == west.address

    async def test_a_node_has_one_address_and_one_interface_on_each_of_its_networks(
        self, campus: Lab
    ) -> None:
        for node in campus.nodes.values():
            networks = [attachment.name for attachment in node.spec.networks]
            assert list(node.addresses) == list(node.interfaces) == networks
            assert node.address == node.addresses[networks[0]]
            for network in networks:
                assert node.addresses[network] in campus.networks[network].subnet

    async def test_the_kernel_of_a_node_agrees_on_addresses_and_interfaces(
        self, campus: Lab
    ) -> None:
        for node in campus.nodes.values():
            kernel = await node.exec("cat /proc/net/fib_trie /proc/net/if_inet6; ls /sys/class/net")
            for network, address in node.addresses.items():
                shown = str(address) if address.version == 4 else f"{int(address):032x}"
                assert shown in kernel.stdout.split()
                assert node.interfaces[network] in kernel.stdout.split()

    async def test_an_address_that_the_file_gives_is_the_address(self, campus: Lab) -> None:
        assert campus["gamma"].address == IPv4Address("10.231.0.77")
        assert campus["router"].addresses["right"] == IPv4Address("10.231.2.1")

    @needs_python
    async def test_nodes_of_one_network_reach_each_other(self, campus: Lab) -> None:
        pairs = [("alpha", "beta", "lan"), ("beta", "alpha", "lan"), ("beta", "gamma", "wan")]
        for client, server, network in pairs:
            async with self.serve(campus[server], 7200) as process:
                for host in (campus[server].addresses[network], server):
                    answer = await self.fetch(campus[client], host, 7200)
                    assert answer.stdout == server, answer.stderr
                await process.wait_for_line(
                    f"client {campus[client].addresses[network]}$", timeout=10
                )

    @needs_python
    async def test_ipv6_reaches_too(self, campus: Lab) -> None:
        alpha, beta = campus["alpha"], campus["beta"]
        assert isinstance(beta.addresses["six"], IPv6Address)
        async with self.serve(beta, 7200, address="::") as process:
            answer = await self.fetch(alpha, beta.addresses["six"], 7200)
            assert answer.stdout == "beta", answer.stderr
            await process.wait_for_line(f"client {alpha.addresses['six']}$", timeout=10)

    @needs_python
    async def test_a_mebibyte_goes_through_whatever_the_packet_size(self, campus: Lab) -> None:
        times = MIB // len("beta")
        for network, address in (("lan", "0.0.0.0"), ("six", "::")):  # noqa: S104
            async with self.serve(campus["beta"], 7200, address=address, times=times):
                answer = await self.fetch(campus["alpha"], campus["beta"].addresses[network], 7200)
                assert answer.stdout_bytes == b"beta" * times

    @needs_python
    async def test_two_networks_do_not_reach_each_other(self, campus: Lab) -> None:
        strangers = [("alpha", "gamma"), ("gamma", "alpha"), ("west", "alpha"), ("alpha", "east")]
        for client, server in strangers:
            async with self.serve(campus[server], 7200):
                assert await self.connects(campus[server], campus[server].address, 7200)
                assert not await self.connects(campus[client], campus[server].address, 7200)

    @needs_python
    async def test_a_broadcast_stays_on_its_network(self, campus: Lab) -> None:
        async def broadcast(name: str, network: str) -> None:
            device = campus[name].interfaces[network]
            await campus[name].exec(self.program(BROADCAST, device, name), check=True)

        listener = self.program(LISTEN)
        beta, gamma = campus["beta"].process(listener), campus["gamma"].process(listener)
        async with beta, gamma:
            await beta.wait_for_line("listening", timeout=10)
            await gamma.wait_for_line("listening", timeout=10)
            await broadcast("alpha", "lan")
            await beta.wait_for_line("alpha", timeout=10)
            await broadcast("beta", "wan")
            await gamma.wait_for_line("beta", timeout=10)
            with pytest.raises(WaitTimeout):
                await gamma.wait_for_line("alpha", timeout=0)

    @needs_python
    async def test_a_node_on_two_networks_does_not_join_them(self, campus: Lab) -> None:
        async with self.serve(campus["beta"], 7200):
            beta = campus["beta"].addresses
            assert await self.connects(campus["alpha"], beta["lan"], 7200)
            assert await self.connects(campus["gamma"], beta["wan"], 7200)
            assert not await self.connects(campus["gamma"], beta["lan"], 7200)

    @needs_python
    async def test_a_router_forwards_between_its_networks(self, campus: Lab) -> None:
        for client, server in (("west", "east"), ("east", "west")):
            async with self.serve(campus[server], 7200, times=100_000) as process:
                for host in (campus[server].address, server):
                    answer = await self.fetch(campus[client], host, 7200)
                    assert answer.stdout == server * 100_000, answer.stderr
                await process.wait_for_line(f"client {campus[client].address}$", timeout=10)

    @needs_python
    async def test_nodes_reach_their_router(self, campus: Lab) -> None:
        async with self.serve(campus["router"], 7200):
            for client in ("west", "east"):
                assert (await self.fetch(campus[client], "router", 7200)).stdout == "router"

    @needs_python
    async def test_what_is_measured_is_who_shares_a_network_or_a_router(self, campus: Lab) -> None:
        assert await campus.reachability() == {
            "alpha": ["beta"],
            "beta": ["alpha", "gamma"],
            "gamma": ["beta"],
            "west": ["east", "router"],
            "east": ["west", "router"],
            "router": ["west", "east"],
        }

    @needs_python
    async def test_measuring_on_one_network_uses_the_addresses_there(self, campus: Lab) -> None:
        for network, names in (("six", ["alpha", "beta"]), ("wan", ["beta", "gamma"])):
            matrix = await campus.probe(network=network, count=2)
            assert matrix.reachability() == {names[0]: names[1:], names[1]: names[:1]}
            for one in matrix:
                assert one.address == str(campus[one.destination].addresses[network])

    @needs_python
    async def test_a_node_reaches_itself(self, campus: Lab) -> None:
        alpha = campus["alpha"]
        async with self.serve(alpha, 7200):
            for host in ("127.0.0.1", "localhost", alpha.address, "alpha"):
                assert (await self.fetch(alpha, host, 7200)).stdout == "alpha"

    @needs_python
    async def test_every_node_has_its_own_ports(self, campus: Lab) -> None:
        async with self.serve(campus["alpha"], 7200), self.serve(campus["beta"], 7200):
            assert (await self.fetch(campus["alpha"], campus["beta"].address, 7200)).stdout == (
                "beta"
            )
            assert not await self.connects(campus["gamma"], "127.0.0.1", 7200)

    async def test_a_network_without_internet_has_no_default_route(self, campus: Lab) -> None:
        for name in ("alpha", "beta", "gamma"):
            table = await campus[name].exec(["cat", "/proc/net/route"], check=True)
            destinations = [line.split()[1] for line in table.stdout.splitlines()[1:]]
            assert "00000000" not in destinations

    @needs_python
    async def test_a_network_without_internet_refuses_at_once(self, campus: Lab) -> None:
        started = time.monotonic()
        assert not await self.connects(campus["alpha"], UNROUTED, 80)
        assert time.monotonic() - started < 1.5, "it waited for an answer from outside"

    # --- names and labs ---

    async def test_names_of_300_characters_work(self) -> None:
        node_names = [f"{letter * 299}{number}" for letter, number in (("n", 1), ("n", 2))]
        network = "w" * 300
        text = f"""
            network: {{name: {network}}}
            nodes: [{{name: {node_names[0]}}}, {{name: {node_names[1]}}}]
            """
        with self.open(text) as lab:
            first, second = (lab[name] for name in node_names)
            assert list(first.addresses) == [network]
            assert first.address != second.address
            assert (await first.exec("uname -n")).stdout != (await second.exec("uname -n")).stdout
            assert await _resolve(first, second.name) == second.address

    @needs_python
    async def test_two_labs_of_one_topology_live_side_by_side(self) -> None:
        with self.open(PAIR) as one, self.open(PAIR) as two:
            async with self.serve(one["beta"], 7200):
                assert (await self.fetch(one["alpha"], "beta", 7200)).ok
                assert not (await self.fetch(two["alpha"], "beta", 7200)).ok
            await asyncio.gather(
                *(
                    lab["beta"].write_text("/srv/who", name)
                    for name, lab in (("one", one), ("two", two))
                )
            )
            assert await one["beta"].read_text("/srv/who") == "one"
            assert await two["beta"].read_text("/srv/who") == "two"


async def _resolve(node: Node, name: str) -> IPv4Address | IPv6Address:
    answer = await node.exec(["getent", "hosts", name], check=True)
    return ip_address(answer.stdout.split()[0])
