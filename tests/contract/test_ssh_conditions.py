"""Conditions and cuts on machines that are there already: set by whom, where, and what is left of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from pytest_benchscale import Lab, LabError, Topology
from pytest_benchscale.network.link import NOTHING, Link, LinkState, Senders, Side
from pytest_benchscale.network.render import steps
from pytest_benchscale.topology.conditions import Figures
from tests.contract.sshd_machines import Keys, Road, needs_sshd, road, sshd

pytestmark = needs_sshd

GROUND = {
    "metadata": {"name": "ground"},
    "networks": [{"name": "lan", "subnet": "10.232.0.0/24"}],
    "nodes": [
        {"name": "machine", "networks": [{"name": "lan", "address": "10.232.0.2"}]},
        {"name": "other", "networks": [{"name": "lan", "address": "10.232.0.3"}]},
    ],
}
ADDRESS, OTHER = IPv4Address("10.232.0.2"), IPv4Address("10.232.0.3")
NETWORKS = ("lan", "second")
DEAF = LinkState(deaf_to=Senders(addresses=frozenset({OTHER})))
SLOW = LinkState(figures=Figures(bandwidth_kbps=64))
SET = "tc qdisc show; tc filter show dev eth0 ingress; tc filter show dev eth0 egress; ip -o link"


class Machine:
    """A machine on a network with another one, its sshd, and the labs on it."""

    def __init__(self, ground: Lab, keys: Keys, stack: ExitStack) -> None:
        self.node, self.other = ground["machine"], ground["other"]
        self.keys = keys
        self.stack = stack
        self.road: Road | None = None

    def open(
        self, *, by_lan: bool = False, user: str = "root", networks: Sequence[str] = ("10.232.0.2",)
    ) -> Lab:
        """Bring a lab up on it, over its loopback or over its network; its addresses are on networks."""
        self.stack.enter_context(sshd(self.node, self.keys))
        way = road(self.other, str(ADDRESS)) if by_lan else road(self.node)
        self.road = self.stack.enter_context(way)
        login = {"user": user, "key": str(self.keys.user), "known_hosts": "none"}
        there = {
            "existing": "there",
            "address": "127.0.0.1",
            "networks": [
                {"name": name, "address": address}
                for name, address in zip(NETWORKS, networks, strict=False)
            ],
            "ssh": {"port": self.road.port, **login},
        }
        topology = Topology.from_dict(
            {
                "metadata": {"name": "there"},
                "networks": [
                    {"name": name, "subnet": str(ip_network(f"{address}/24", strict=False))}
                    for name, address in zip(NETWORKS, networks, strict=False)
                ],
                "nodes": [{"name": "machine", **there}],
            }
        )
        return self.stack.enter_context(Lab.open_sync(topology, backend="ssh"))

    async def what_is_set(self) -> str:
        """Return what there is of traffic control, and which devices."""
        return (await self.node.exec(SET, check=True)).stdout

    async def is_reached(self) -> bool:
        """Return whether the other one reaches it."""
        ping = f"import socket; socket.create_connection(({str(ADDRESS)!r}, 22), timeout=1)"
        return (await self.other.exec(["python3", "-c", ping])).ok


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def machine(keys: Keys) -> Iterator[Machine]:
    ground = Topology.from_dict(GROUND)
    with Lab.open_sync(ground, backend="local") as lab, ExitStack() as stack:
        yield Machine(lab, keys, stack)


async def link(lab: Lab) -> Link:
    """Return the link of the machine."""
    return (await links(lab))["lan"]


async def links(lab: Lab) -> Mapping[str, Link]:
    """Return the links of the machine."""
    return await lab._context.portal.call(lab._context.backend.links, "machine")


async def change(lab: Lab, before: LinkState, after: LinkState) -> None:
    """Change what acts on the link of the machine."""
    there = await link(lab)
    await lab._context.portal.call(there.conduit.change, steps(there, before, after))


async def test_a_cut_machine_is_not_reached_and_answers_commands(machine: Machine) -> None:
    lab = machine.open()
    before = await machine.what_is_set()
    assert await machine.is_reached()
    await change(lab, NOTHING, DEAF)
    assert not await machine.is_reached()
    assert (await lab["machine"].exec("echo there")).stdout == "there\n"
    await change(lab, DEAF, NOTHING)
    assert await machine.is_reached()
    assert await machine.what_is_set() == before


async def test_a_machine_is_left_as_it_was_when_its_lab_is_closed(machine: Machine) -> None:
    lab = machine.open()
    before = await machine.what_is_set()
    await change(lab, NOTHING, LinkState(SLOW.figures, deaf_to=DEAF.deaf_to))
    assert "tbf" in await machine.what_is_set()
    await lab._context.portal.call(lab._context.backend.delete_node, "machine")
    assert await machine.what_is_set() == before


async def test_who_commands_it_over_the_same_device_is_spared(machine: Machine) -> None:
    lab = machine.open(by_lan=True)
    assert (await link(lab)).spare == {OTHER}
    await change(lab, NOTHING, SLOW)
    await machine.other.exec("ip neigh flush dev eth0", check=True)
    started = time.monotonic()
    assert len((await lab["machine"].exec("head -c 200000 /dev/zero")).stdout_bytes) == 200_000
    assert time.monotonic() - started < 5  # at 64 kbit/s it would take 25 s


async def test_the_search_for_neighbours_is_spared_with_who_commands_it(machine: Machine) -> None:
    lab = machine.open(by_lan=True)
    # IPv6 sends of its own accord, now and then: its groups, and its search for routers.
    silence = "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"
    await machine.node.exec(silence, check=True)
    await change(lab, NOTHING, SLOW)
    nobody = "import socket; socket.create_connection(('10.232.0.99', 80), timeout=1)"
    assert not (await lab["machine"].exec(["python3", "-c", nobody])).ok
    queue = await machine.node.exec("tc -s qdisc show dev eth0-q0", check=True)
    assert "Sent 0 bytes 0 pkt" in queue.stdout


async def test_who_commands_it_over_another_device_is_not_looked_at(machine: Machine) -> None:
    there = await link(machine.open())
    assert (there.device, there.side, there.spare) == ("eth0", Side.INSIDE, frozenset())


async def test_a_connection_that_breaks_takes_it_back_and_the_next_change_sets_it_again(
    machine: Machine,
) -> None:
    lab = machine.open()
    before = await machine.what_is_set()
    await change(lab, NOTHING, SLOW)
    assert machine.road is not None
    machine.road.cut()
    await until(machine, before)
    both = LinkState(SLOW.figures, deaf_to=DEAF.deaf_to)
    await change(lab, SLOW, both)
    there = await machine.what_is_set()
    assert "tbf" in there
    assert not await machine.is_reached()
    await change(lab, both, NOTHING)
    assert await machine.what_is_set() == before


async def test_a_machine_that_has_not_noticed_the_break_is_told(machine: Machine) -> None:
    lab = machine.open()
    before = await machine.what_is_set()
    await change(lab, NOTHING, SLOW)
    conduit: Any = (await link(lab)).conduit
    conduit._shell._has_ended = True  # as we see it
    await change(lab, SLOW, DEAF)
    there = await machine.what_is_set()
    assert "clsact" in there
    assert "tbf" not in there
    shells = await machine.node.exec("grep -ls benchscale-sai[d] /proc/[0-9]*/cmdline")
    assert len(shells.stdout.split()) == 1, shells.stdout
    await change(lab, DEAF, NOTHING)
    assert await machine.what_is_set() == before


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        ("tc qdisc add dev eth0 clsact", "clsact"),
        ("tc qdisc add dev eth0 ingress", "ingress"),
        ("ip link add eth0-q0 type ifb", "eth0-q0"),
    ],
)
async def test_what_somebody_else_has_set_is_an_error_that_names_it_and_stays(
    machine: Machine, foreign: str, named: str
) -> None:
    lab = machine.open()
    await machine.node.exec(foreign, check=True)
    before = await machine.what_is_set()
    with pytest.raises(LabError, match=named):
        await change(lab, NOTHING, SLOW)
    assert await machine.what_is_set() == before
    await lab._context.portal.call(lab._context.backend.delete_node, "machine")
    assert await machine.what_is_set() == before


async def test_a_queue_of_the_users_own_is_not_touched(machine: Machine) -> None:
    lab = machine.open()
    own = "tc qdisc add dev eth0 root tbf rate 1gbit burst 100kb latency 1s"
    await machine.node.exec(own, check=True)
    before = await machine.what_is_set()
    await change(lab, NOTHING, SLOW)
    await change(lab, SLOW, NOTHING)
    assert await machine.what_is_set() == before


async def test_a_login_that_may_not_be_root_is_an_error_that_says_what_it_takes(
    machine: Machine,
) -> None:
    await machine.node.exec("useradd -m worker -s /bin/sh && passwd -d worker", check=True)
    lab = machine.open(user="worker")
    with pytest.raises(LabError, match=r"has not the right to set conditions(.|\n)*sudo"):
        await change(lab, NOTHING, SLOW)
    assert (await lab["machine"].exec("echo there")).stdout == "there\n"


async def test_a_machine_without_tc_is_an_error_that_names_the_package(machine: Machine) -> None:
    await machine.node.exec("mv $(command -v tc) /root/tc", check=True)
    lab = machine.open()
    for _ in range(2):
        with pytest.raises(LabError, match=r"no `tc`(.|\n)*iproute2"):
            await change(lab, NOTHING, SLOW)


async def test_a_machine_on_no_network_has_no_links(machine: Machine) -> None:
    assert await links(machine.open(networks=())) == {}


async def test_two_networks_on_one_device_are_an_error(machine: Machine) -> None:
    await machine.node.exec("ip address add 10.232.1.2/24 dev eth0", check=True)
    lab = machine.open(networks=("10.232.0.2", "10.232.1.2"))
    with pytest.raises(LabError, match="both on its device eth0"):
        await links(lab)


async def until(machine: Machine, expected: str) -> None:
    """Wait until that is what is set."""
    async with asyncio.timeout(20):
        while await machine.what_is_set() != expected:
            await asyncio.sleep(0.05)
