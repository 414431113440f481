"""What is special to networks that are Docker's."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import Lab, LabError
from pytest_benchscale.backends.docker import plugging
from pytest_benchscale.backends.docker.backend import DockerBackend
from pytest_benchscale.errors import NodeDied, SubnetTaken
from pytest_benchscale.lab.plan import mac_of
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.network import kernel_routes
from pytest_benchscale.network.link import Side
from tests.contract.docker_labs import containers, daemon, networks, opened, topology
from tests.daemons.images import reference

pytestmark = [pytest.mark.daemon("docker")]

FOUR = """
    networks:
      - {name: zulu}
      - {name: mike}
      - {name: six, subnet: "fd42:911::/64"}
      - {name: alpha}
    nodes:
      - {name: all}
      - {name: some, networks: [alpha, six]}
      - {name: backwards, networks: [alpha, mike, zulu]}
    """


@pytest.fixture
def api() -> Iterator[Any]:
    with daemon() as client:
        yield client


@contextmanager
def network(api: Any, subnet: str) -> Iterator[str]:
    """Have a network of the user's own."""
    pool = {"Driver": "default", "Config": [{"Subnet": subnet}]}
    made = api.create_network("users-own", driver="bridge", ipam=pool)["Id"]
    try:
        yield made
    finally:
        api.remove_network(made)


# --- devices, addresses, routes ---


async def test_devices_are_in_the_order_of_the_file_also_after_a_start():
    async with opened(FOUR) as lab:
        for _ in range(3):
            for node in lab.nodes.values():
                names = list(node.interfaces.values())
                assert names == [f"eth{number}" for number in range(len(names))]
                for name, device in node.interfaces.items():
                    shown = await node.exec(["ip", "-o", "address", "show", "dev", device])
                    assert f" {node.addresses[name]}/" in shown.stdout
            await lab["all"].restart()
            await lab["backwards"].kill()
            await lab["backwards"].start()


async def test_every_bridge_has_the_address_of_the_gateway_unless_a_node_has_it(api):
    text = """
        networks:
          - {name: plain, subnet: 10.233.0.0/24}
          - {name: routed, subnet: 10.233.1.0/24, gateway: 10.233.1.1}
        nodes:
          - {name: a, networks: [plain]}
          - {name: router, networks: [plain, {name: routed, address: 10.233.1.1}]}
        """
    async with opened(text) as lab:
        made = networks(api, lab)
        assert made["plain"]["IPAM"]["Config"][0]["Gateway"] == "10.233.0.1"
        assert made["routed"]["IPAM"]["Config"][0]["Gateway"] == "10.233.1.254"
        forwarding = await lab["router"].read_text("/proc/sys/net/ipv4/ip_forward")
        assert forwarding == "1\n"


async def test_only_a_network_with_internet_has_a_default_route(api):
    text = """
        networks: [{name: lan}, {name: wan, internet: true}]
        nodes:
          - {name: inside, networks: [lan]}
          - {name: both}
          - {name: outside, networks: [wan]}
        """
    async with opened(text) as lab:
        for _ in range(2):
            for node in lab.nodes.values():
                table = kernel_routes.parse_ipv4(await node.read_text("/proc/net/route"))
                gateways = {str(route.via) for route in table if route.via is not None}
                bridge = networks(api, lab)["wan"]["IPAM"]["Config"][0]["Gateway"]
                assert gateways == (set() if node.name == "inside" else {bridge})
                await node.restart()


async def test_a_name_that_nobody_has_is_refused_soon():
    async with opened("{network: {name: lan}, nodes: [{name: a}]}") as lab:
        begun = time.monotonic()
        assert not (await lab["a"].exec(["getent", "ahosts", "nobody.example"])).ok
        assert time.monotonic() - begun < 4


async def test_devices_have_the_planned_macs_also_after_a_start():
    async with opened(FOUR) as lab:
        for _ in range(2):
            for node in lab.nodes.values():
                for name, device in node.interfaces.items():
                    mac = await node.read_text(f"/sys/class/net/{device}/address")
                    assert mac.strip() == mac_of(node.name, name)
            assert (await lab["all"].exec(["ping", "-c1", "-W2", "backwards"])).ok
            await lab["all"].restart()


async def test_the_links_of_a_node_are_its_own_devices():
    async with opened(FOUR) as lab:
        backend = lab["all"]._machine.context.backend
        for _ in range(2):
            found = await lab.portal.call(backend.links, "all")
            assert {name: link.device for name, link in found.items()} == lab["all"].interfaces
            assert {link.side for link in found.values()} == {Side.INSIDE}
            again = await lab.portal.call(backend.links, "all")
            assert again == found
            await lab["all"].restart()
            anew = await lab.portal.call(backend.links, "all")
            assert not {link.conduit for link in anew.values()} & {
                link.conduit for link in found.values()
            }
        await lab["all"].stop()
        with pytest.raises(NodeDied, match="all"):
            await lab.portal.call(backend.links, "all")


async def test_a_partition_cuts_addresses_that_no_plan_knows_too():
    text = """
        networks: [{name: lan}, {name: six, subnet: "fd00:77:1::/64"}]
        nodes: [{name: a}, {name: b, command: [sleep, "1000"]}]
        """
    async with opened(text) as lab:
        device = lab["b"].interfaces["six"]
        # Docker adds an address of IPv4 on a network of IPv6.
        shown = await lab["b"].exec(f"ip -o -4 address show dev {device}", check=True)
        ping = ["ping", "-c1", "-W1", shown.stdout.split()[3].partition("/")[0]]
        assert (await lab["a"].exec(ping)).ok
        async with lab.partition({"a"}, {"b"}):
            assert not (await lab["a"].exec(ping)).ok
        assert (await lab["a"].exec(ping)).ok


async def test_a_container_of_the_users_own_on_a_lab_network_is_left_alone_and_named(api):
    async with opened("{network: {name: lan}, nodes: [{name: a}]}") as lab:
        name = networks(api, lab)["lan"]["Name"]
        config = api.create_host_config(network_mode=name)
        own = api.create_container(reference("debian"), name="users-own", host_config=config)["Id"]
        api.start(own)
        try:
            with pytest.raises(LabError, match="users-own is still on it"):
                await lab.down()
            assert api.inspect_container(own)["State"]["Running"]
        finally:
            api.remove_container(own, force=True)
        await lab.down()
        assert networks(api, lab) == {}


# --- subnets ---


async def test_a_subnet_that_another_network_has_is_refused_with_its_name(api):
    with network(api, "10.234.0.0/16"), pytest.raises(SubnetTaken, match="'users-own'") as caught:
        async with opened("{network: {name: lan, subnet: 10.234.5.0/24}, nodes: [{name: a}]}"):
            pytest.fail("the lab came up")
    assert "10.234.0.0/16" in str(caught.value)
    assert str(caught.value.subnet) == "10.234.5.0/24"


async def test_a_subnet_that_another_lab_has_is_refused_with_its_name():
    text = "{network: {name: lan, subnet: 10.234.6.0/24}, nodes: [{name: a}]}"
    async with opened(text) as lab:
        with pytest.raises(SubnetTaken, match=rf"lab {lab.lab_id} of process \d+"):
            async with opened(text):
                pytest.fail("the lab came up")


async def test_a_subnet_that_the_machine_has_a_route_to_is_refused():
    routes = kernel_routes.read()
    uplinks = {route.device for route in routes if not route.destination.prefixlen}
    own = (route for route in routes if route.destination.prefixlen and route.device in uplinks)
    physical = next(own)
    text = f"{{network: {{name: lan, subnet: '{physical.destination}'}}, nodes: [{{name: a}}]}}"
    with pytest.raises(SubnetTaken, match=f"route to it, through {physical.device}"):
        async with opened(text):
            pytest.fail("the lab came up")


async def test_free_subnets_are_chosen_around_those_in_use(api):
    text = "{network: {name: lan}, nodes: [{name: a}]}"
    async with opened(text) as lab:
        free = lab.networks["lan"].subnet
    with network(api, str(free)):
        async with opened(text) as lab:
            assert not lab.networks["lan"].subnet.overlaps(free)


async def test_labs_that_come_up_at_the_same_moment_get_different_subnets():
    text = "{networks: [{name: lan}, {name: wan}], nodes: [{name: a}]}"
    labs = [opened(text) for _ in range(3)]
    opened_labs = await asyncio.gather(*(lab.__aenter__() for lab in labs))
    try:
        subnets = {one.subnet for lab in opened_labs for one in lab.networks.values()}
        assert len(subnets) == 6
    finally:
        await asyncio.gather(*(lab.__aexit__(None, None, None) for lab in labs))


async def test_a_subnet_too_small_for_a_bridge_is_explained():
    text = """
        network: {name: lan, subnet: 10.234.7.0/30}
        nodes: [{name: a}, {name: b}]
        """
    with pytest.raises(LabError, match="no address left") as caught:
        async with opened(text):
            pytest.fail("the lab came up")
    assert "subnet" in str(caught.value.resolution)


# --- many ---


def waited_for_a_processor() -> float:
    """Return for how many seconds this thread was ready to run, and other programs were running."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    return int(path.read_text().split()[1]) / 1e9


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Leave out what the interpreter does for all of the test session, 30 ms at a time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_fifty_nodes_come_up_without_holding_up_the_event_loop():
    nodes = ", ".join(f"{{name: n{number}}}" for number in range(50))
    fifty = topology(f"{{network: {{name: lan}}, nodes: [{nodes}]}}")
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            waited = waited_for_a_processor()
            begun = time.perf_counter()
            await asyncio.sleep(0.005)
            late = time.perf_counter() - begun - 0.005
            gaps.append(late - (waited_for_a_processor() - waited))

    async def up_and_down() -> None:
        beating = asyncio.create_task(beat())
        lab = Lab(fifty, DockerBackend(), portal=portal)
        try:
            await lab.up()
            assert all(result.ok for result in (await lab.exec("true")).values())
        finally:
            await lab.down()
            beating.cancel()

    with Portal() as portal:
        await portal.call(up_and_down)
    # Twice, since another program may have had the processor while a thread of ours had the lock.
    assert len([gap for gap in gaps if gap >= 0.05]) <= 2, sorted(gaps)[-5:]
    assert max(gaps) < 0.2


# --- links of ours ---

MIXED = """
    network: {name: lan}
    nodes:
      - {name: first}
      - {name: idle}
      - {name: busy, command: [sleep, "1000"]}
      - {name: other}
    """


def _plugged(api: Any, lab: Lab) -> set[str]:
    known = containers(api, lab)
    return {name for name, one in known.items() if one["Config"].get("NetworkDisabled")}


def _links_of_ours() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith("bs")}


async def test_links_that_we_make_and_those_of_docker_are_one_network(api):
    before = _links_of_ours()
    async with opened(MIXED) as lab:
        assert _plugged(api, lab) == {"idle", "other"}
        for _ in range(2):
            assert len(_links_of_ours() - before) == 2
            for name, reached in (await lab.reachability()).items():
                assert set(reached) == set(lab.nodes) - {name}
            for node in lab.nodes.values():
                for name, other in lab.nodes.items():
                    hosts = await node.exec(["getent", "ahostsv4", name], check=True)
                    assert str(other.address) in hosts.stdout
            await lab["idle"].restart()
            await lab["busy"].restart()
    deadline = time.monotonic() + 5  # the kernel takes its time with namespaces
    while _links_of_ours() - before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_network_of_a_lab_that_is_up_is_not_pruned(api):
    nodes = "{name: first}, {name: idle}, {name: other}"  # none of which Docker has to attach
    async with opened(f"{{network: {{name: lan}}, nodes: [{nodes}]}}") as lab:
        api.prune_networks(filters={"label": f"benchscale.lab={lab.lab_id}"})
        assert list(networks(api, lab)) == ["lan"]
        (await lab["idle"].exec(["ping", "-c1", "-W2", "other"])).check()


async def test_a_node_may_change_its_own_hosts_file_and_no_other_has_it():
    async with opened(MIXED) as lab:
        await lab["idle"].exec("echo 192.0.2.1 elsewhere >> /etc/hosts", check=True)
        assert (await lab["idle"].exec(["getent", "hosts", "elsewhere"])).ok
        assert not (await lab["other"].exec(["getent", "hosts", "elsewhere"])).ok
        await lab["idle"].restart()
        assert (await lab["idle"].exec(["getent", "hosts", "elsewhere"])).ok


async def test_a_node_that_was_killed_is_off_the_network_whoever_has_its_namespace_open(api):
    before = _links_of_ours()
    async with opened(MIXED) as lab:
        pid = containers(api, lab)["idle"]["State"]["Pid"]
        with Path(f"/proc/{pid}/ns/net").open():
            await lab["idle"].kill()
            assert len(_links_of_ours() - before) == 1  # that of the other one
            await lab["idle"].start()
            assert len(_links_of_ours() - before) == 2
            (await lab["other"].exec(["ping", "-c3", "-i.2", "-W2", "idle"])).check()


async def test_a_container_that_joins_a_lab_gets_no_nodes_address(api):
    async with opened(MIXED) as lab:
        config = api.create_host_config(network_mode=networks(api, lab)["lan"]["Name"])
        own = api.create_container(reference("debian"), name="users-own", host_config=config)["Id"]
        try:
            api.start(own)
            (attached,) = api.inspect_container(own)["NetworkSettings"]["Networks"].values()
            assert attached["IPAddress"]
            assert attached["IPAddress"] not in {str(node.address) for node in lab.nodes.values()}
        finally:
            api.remove_container(own, force=True)


async def test_a_network_without_an_address_to_spare_comes_up_too():
    names = ", ".join(f"{{name: n{number}}}" for number in range(5))
    text = f"{{network: {{name: lan, subnet: 10.235.0.0/29}}, nodes: [{names}]}}"
    async with opened(text) as lab:
        (await lab["n4"].exec(["ping", "-c1", "-W2", "n3"])).check()


async def test_a_start_that_failed_half_way_can_be_tried_again(monkeypatch):
    async with opened(MIXED) as lab:
        await lab["idle"].stop()
        with monkeypatch.context() as patch:
            patch.setattr(plugging, "_configure", _refuse)
            with pytest.raises(LabError, match="'idle' could not be attached"):
                await lab["idle"].start()
        await lab["idle"].start()
        (await lab["idle"].exec(["ping", "-c1", "-W2", "other"])).check()


async def test_a_link_that_cannot_be_made_fails_the_lab_and_says_of_which_node(monkeypatch):
    monkeypatch.setattr(plugging.Plugs, "plug", _refuse)
    with pytest.raises(
        LabError, match=r"node '(idle|other)' could not be attached.*No such device"
    ):
        async with opened(MIXED):
            pass


def _refuse(*_arguments: object) -> None:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "link bs1")
