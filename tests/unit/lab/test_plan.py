"""From a topology to devices, addresses, routes and host tables."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan, hostname_of, mac_of, new_lab_id
from pytest_benchscale.topology.model import Topology


def _plan(options: LabOptions | None = None, **topology: Any) -> LabPlan:
    declared = Topology.from_dict(topology)
    return build_plan(declared, "local", options or LabOptions(), lab_id="0123abcd")


def _node(plan: LabPlan, name: str) -> NodePlan:
    return next(node for node in plan.nodes if node.name == name)


def _routes(plan: LabPlan, name: str) -> set[str]:
    return {f"{route.destination} via {route.via}" for route in _node(plan, name).routes}


def _hosts(plan: LabPlan, name: str) -> dict[str, Sequence[str]]:
    hosts = _node(plan, name).hosts
    return {host: [str(address) for address in addresses] for host, addresses in hosts.items()}


def _at(network: str, address: str) -> dict[str, str]:
    return {"name": network, "address": address}


def test_devices_are_numbered_in_the_order_of_the_file() -> None:
    plan = _plan(
        networks=[{"name": "x", "subnet": "10.1.0.0/24"}, {"name": "y", "subnet": "10.2.0.0/24"}],
        nodes=[{"name": "a", "networks": ["y", "x"]}],
    )
    interfaces = _node(plan, "a").interfaces
    assert [(one.device, one.network, str(one.address)) for one in interfaces] == [
        ("eth0", "y", "10.2.0.2/24"),
        ("eth1", "x", "10.1.0.2/24"),
    ]


def test_macs_are_local_unicast_and_the_same_in_every_lab() -> None:
    macs = {mac_of(node, network) for node in ("a", "b") for network in ("x", "y")}
    assert len(macs) == 4
    assert all(re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) for mac in macs)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    assert mac_of("a", "x") == mac_of("a", "x")


def test_lab_ids_are_short_and_different() -> None:
    ids = {new_lab_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{8}", lab_id) for lab_id in ids)


@pytest.mark.parametrize("name", ["server", "Web-1", "db.example", "a_b", "x" * 63])
def test_a_name_that_is_a_host_name_is_kept(name: str) -> None:
    assert hostname_of(name) == name


@pytest.mark.parametrize("name", ["x" * 64, "x" * 300, "grün", "a..b", "-", "x" * 62 + "-"])
def test_any_other_name_becomes_one(name: str) -> None:
    hostname = hostname_of(name)
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", hostname)
    assert hostname == hostname_of(name) != hostname_of(name + "x")


def test_the_nodes_env_and_the_backends_image_are_in_the_plan() -> None:
    options = LabOptions(images={"ubuntu": "host"}, timeout_scale=3)
    nodes = [{"name": "a", "env": {"ID": 1}, "image": "ubuntu"}]
    plan = _plan(options, metadata={"name": "demo"}, nodes=nodes)
    assert _node(plan, "a").env == {"ID": "1"}
    assert _node(plan, "a").image == "host"
    assert (plan.lab_id, plan.name, plan.timeout_scale) == ("0123abcd", "demo", 3)


def test_an_image_that_the_backend_does_not_have_is_an_error() -> None:
    with pytest.raises(BenchscaleError, match="ubuntu"):
        _plan(nodes=[{"name": "a", "image": "ubuntu"}])


def test_subnets_that_are_taken_are_left_alone() -> None:
    first = _plan(nodes=[{"name": "a"}]).networks[0].subnet
    second = _plan(LabOptions(taken=(first,)), nodes=[{"name": "a"}]).networks[0].subnet
    assert (str(first), str(second)) == ("10.0.0.0/24", "10.0.1.0/24")


# --- routes ---


def test_a_closed_network_without_a_router_has_no_route() -> None:
    plan = _plan(nodes=[{"name": "a"}, {"name": "b"}])
    assert _routes(plan, "a") == set()
    assert not _node(plan, "a").forwards


def test_a_network_with_internet_is_the_way_out() -> None:
    plan = _plan(
        networks=[
            {"name": "lan", "subnet": "10.1.0.0/24"},
            {"name": "wan", "subnet": "10.2.0.0/24", "internet": True},
        ],
        nodes=[{"name": "a"}],
    )
    assert _routes(plan, "a") == {"0.0.0.0/0 via 10.2.0.1"}


ROUTER: dict[str, Any] = {
    "networks": [
        {"name": "left", "subnet": "10.1.0.0/24", "gateway": "10.1.0.1"},
        {"name": "right", "subnet": "10.2.0.0/24", "gateway": "10.2.0.1"},
    ],
    "nodes": [
        {"name": "client", "networks": ["left"]},
        {"name": "server", "networks": ["right"]},
        {"name": "router", "networks": [_at("left", "10.1.0.1"), _at("right", "10.2.0.1")]},
    ],
}


def test_a_router_leads_from_one_network_to_the_other() -> None:
    plan = _plan(**ROUTER)
    assert _routes(plan, "client") == {"0.0.0.0/0 via 10.1.0.1"}
    assert _routes(plan, "server") == {"0.0.0.0/0 via 10.2.0.1"}
    assert _routes(plan, "router") == set()
    assert [node.name for node in plan.nodes if node.forwards] == ["router"]


def test_names_resolve_to_the_addresses_that_can_be_reached() -> None:
    plan = _plan(**ROUTER)
    assert _hosts(plan, "client") == {
        "client": ["10.1.0.2"],
        "server": ["10.2.0.2"],
        "router": ["10.1.0.1"],
    }
    assert _hosts(plan, "router")["router"] == ["10.1.0.1", "10.2.0.1"]


def _routed(names: str) -> list[dict[str, str]]:
    return [
        {"name": name, "subnet": f"10.{n}.0.0/24", "gateway": f"10.{n}.0.1"}
        for n, name in enumerate(names, 1)
    ]


def test_a_gateway_that_no_node_owns_is_no_route() -> None:
    plan = _plan(
        network={"name": "lan", "subnet": "10.1.0.0/24", "gateway": "10.1.0.254"},
        nodes=[{"name": "a"}],
    )
    assert _routes(plan, "a") == set()
    assert str(plan.networks[0].gateway) == "10.1.0.254"


def test_two_routers_in_a_row_lead_all_the_way_and_back() -> None:
    plan = _plan(
        networks=_routed("xyz"),
        nodes=[
            {"name": "a", "networks": ["x"]},
            {"name": "b", "networks": ["y"]},
            {"name": "c", "networks": ["z"]},
            {"name": "r1", "networks": [_at("x", "10.1.0.1"), _at("y", "10.2.0.1")]},
            {"name": "r2", "networks": [_at("y", "10.2.0.9"), _at("z", "10.3.0.1")]},
        ],
    )
    assert _routes(plan, "a") == {"0.0.0.0/0 via 10.1.0.1"}
    assert _routes(plan, "b") == {"0.0.0.0/0 via 10.2.0.1", "10.3.0.0/24 via 10.2.0.9"}
    assert _routes(plan, "c") == {"0.0.0.0/0 via 10.3.0.1"}
    assert _routes(plan, "r1") == {"10.3.0.0/24 via 10.2.0.9"}
    assert _routes(plan, "r2") == {"0.0.0.0/0 via 10.2.0.1"}
    assert _hosts(plan, "a")["c"] == ["10.3.0.2"]


def test_a_node_on_two_routed_networks_reaches_what_is_behind_both() -> None:
    plan = _plan(
        networks=_routed("wxyz"),
        nodes=[
            {"name": "a", "networks": ["x", "y"]},
            {"name": "r1", "networks": [_at("w", "10.1.0.1"), _at("x", "10.2.0.1")]},
            {"name": "r2", "networks": [_at("y", "10.3.0.1"), _at("z", "10.4.0.1")]},
        ],
    )
    assert _routes(plan, "a") == {"0.0.0.0/0 via 10.2.0.1", "10.4.0.0/24 via 10.3.0.1"}


def test_ipv6_has_its_own_default_route() -> None:
    plan = _plan(
        networks=[
            {"name": "four", "subnet": "10.1.0.0/24", "internet": True},
            {"name": "six", "subnet": "fd00:1::/64", "internet": True},
            {"name": "back", "subnet": "fd00:2::/64", "gateway": "fd00:2::1"},
        ],
        nodes=[
            {"name": "a", "networks": ["four", "six"]},
            {"name": "r", "networks": ["four", "six", _at("back", "fd00:2::1")]},
            {"name": "b", "networks": ["back"]},
        ],
    )
    six = next(one.address.ip for one in _node(plan, "r").interfaces if one.network == "six")
    assert _routes(plan, "a") == {
        "0.0.0.0/0 via 10.1.0.1",
        "::/0 via fd00:1::1",
        f"fd00:2::/64 via {six}",
    }
    assert _routes(plan, "b") == {"::/0 via fd00:2::1"}


def test_a_node_out_of_reach_still_has_a_name() -> None:
    plan = _plan(
        networks=[{"name": "x", "subnet": "10.1.0.0/24"}, {"name": "y", "subnet": "10.2.0.0/24"}],
        nodes=[{"name": "a", "networks": ["x"]}, {"name": "b", "networks": ["y"]}],
    )
    assert _hosts(plan, "a") == {"a": ["10.1.0.2"], "b": ["10.2.0.2"]}
    assert _routes(plan, "a") == set()


def test_several_shared_networks_are_all_in_the_host_table() -> None:
    plan = _plan(
        networks=[{"name": "x", "subnet": "10.1.0.0/24"}, {"name": "y", "subnet": "10.2.0.0/24"}],
        nodes=[{"name": "a", "networks": ["y", "x"]}, {"name": "b"}],
    )
    assert _hosts(plan, "a")["b"] == ["10.2.0.3", "10.1.0.3"]


def test_conditions_are_worked_out_for_each_attachment_or_left_out() -> None:
    topology: dict[str, Any] = {
        "network": {"name": "lan", "conditions": {"latency_ms": 5}},
        "nodes": [{"name": "a"}, {"name": "b", "network_conditions": {"latency_ms": 9}}],
    }
    seen = [node.interfaces[0].conditions for node in _plan(**topology).nodes]
    assert [one.latency_ms for one in seen if one] == [5, 9]
    off = _plan(LabOptions(conditions="off"), **topology)
    assert [node.interfaces[0].conditions for node in off.nodes] == [None, None]


def test_a_plan_of_200_nodes_takes_no_time() -> None:
    declared = Topology.from_dict({"nodes": [{"name": f"n{i}"} for i in range(200)]})
    started = time.perf_counter()
    plan = build_plan(declared, "local", LabOptions())
    assert time.perf_counter() - started < 0.5
    assert len(plan.nodes[0].hosts) == 200
