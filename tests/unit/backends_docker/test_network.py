"""How a lab's networks become Docker's."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from pytest_benchscale.backends.base import LabPlan, Route
from pytest_benchscale.backends.docker.network import (
    DEFAULTS,
    Wiring,
    joins_in_order,
    routes_of,
    wire,
)
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.topology.loader import load_text


def plan(text: str) -> LabPlan:
    return build_plan(load_text(text), "docker", LabOptions(), lab_id="test0001")


def wired(text: str, *, internal: bool = True) -> dict[str, Wiring]:
    return wire(plan(text), internal=internal)


ROUTED = """
    networks:
      - {name: lan}
      - {name: left, subnet: 10.1.0.0/24, gateway: 10.1.0.1}
      - {name: right, subnet: 10.2.0.0/24}
    nodes:
      - {name: west, networks: [left]}
      - {name: lone, networks: [lan]}
      - {name: router, networks: [{name: left, address: 10.1.0.1}, right]}
    """


def test_a_network_is_internal_unless_something_needs_a_way_through():
    assert {name: wiring.internal for name, wiring in wired(ROUTED).items()} == {
        "lan": True,
        "left": False,
        "right": False,
    }
    outside = wired("{networks: [{name: a, internet: true}, {name: b}], nodes: [{name: n}]}")
    assert [wiring.internal for wiring in outside.values()] == [False, True]


def test_one_network_of_a_node_that_publishes_ports_is_open():
    ports = wired("{networks: [{name: a}, {name: b}], nodes: [{name: n, ports: ['8080:80']}]}")
    assert [wiring.internal for wiring in ports.values()] == [False, True]


def test_what_is_neither_internal_nor_has_internet_does_not_translate_addresses():
    made = wired(ROUTED)
    assert made["left"].request({})["options"] == {
        "com.docker.network.bridge.enable_ip_masquerade": "false"
    }
    assert made["lan"].request({})["options"] == {}
    assert wired(ROUTED, internal=False)["lan"].request({})["internal"] is False


def test_the_bridge_has_the_gateway_or_the_highest_free_address():
    made = wired(ROUTED)
    assert made["left"].bridge_address == ip_address("10.1.0.254")
    assert made["right"].bridge_address == ip_address("10.2.0.1")
    six = wired("""
        network: {name: n, subnet: "fd00:1::/64", gateway: "fd00:1::1"}
        nodes: [{name: r, networks: [{name: n, address: "fd00:1::1"}]}]
        """)
    assert six["n"].bridge_address == ip_address("fd00:1::ffff:ffff:ffff:ffff")
    assert six["n"].request({})["enable_ipv6"] is True


def test_a_subnet_without_room_for_the_bridge_is_an_error():
    full = wired("{network: {name: n, subnet: 10.1.0.0/30}, nodes: [{name: a}, {name: b}]}")
    with pytest.raises(LabError, match="no address left"):
        full["n"].request({})


def test_names_sort_in_the_order_of_the_file_and_are_never_the_same():
    names = ["z", "a", *("n" * 60 + str(number) for number in range(10))]
    made = wired(
        f"{{networks: [{', '.join(f'{{name: {n}}}' for n in names)}], nodes: [{{name: x}}]}}"
    )
    docker_names = [wiring.docker_name for wiring in made.values()]
    assert docker_names == sorted(set(docker_names))
    assert all(name.startswith("benchscale-test0001-") for name in docker_names)


def test_docker_sorts_networks_with_a_way_out_first_then_ipv6_then_by_name():
    made = wired("""
        networks:
          - {name: a}
          - {name: b}
          - {name: six, subnet: "fd00:1::/64"}
          - {name: out, internet: true}
        nodes: [{name: x}]
        """)
    assert joins_in_order(made["a"], made["b"])
    assert not joins_in_order(made["b"], made["a"])
    assert joins_in_order(made["six"], made["a"])
    assert joins_in_order(made["out"], made["six"])
    assert not joins_in_order(made["a"], made["out"])


def routes(text: str, name: str) -> tuple[Route, ...]:
    lab = plan(text)
    node = next(node for node in lab.nodes if node.name == name)
    return routes_of(node, wire(lab))


def test_a_node_behind_a_router_has_its_routes_and_no_others():
    assert routes(ROUTED, "west") == (Route(DEFAULTS[4], ip_address("10.1.0.1")),)
    assert routes(ROUTED, "router") == routes(ROUTED, "lone") == ()


def test_the_way_to_the_internet_is_the_bridge():
    text = """
        networks: [{name: lan}, {name: wan, subnet: 10.3.0.0/24, internet: true}]
        nodes: [{name: both}, {name: inside, networks: [lan]}]
        """
    assert routes(text, "both") == (Route(DEFAULTS[4], ip_address("10.3.0.1")),)
    assert routes(text, "inside") == ()


def test_who_publishes_ports_can_answer_other_machines():
    text = "{network: {name: n, subnet: 10.3.0.0/24}, nodes: [{name: a, ports: ['80']}, {name: b}]}"
    assert routes(text, "a") == (Route(DEFAULTS[4], ip_address("10.3.0.1")),)
    assert routes(text, "b") == ()


def test_a_route_beside_the_way_out_is_kept():
    text = """
        networks:
          - {name: wan, subnet: 10.3.0.0/24, internet: true}
          - {name: left, subnet: 10.1.0.0/24, gateway: 10.1.0.1}
          - {name: right, subnet: 10.2.0.0/24}
        nodes:
          - {name: host, networks: [wan, left]}
          - {name: router, networks: [{name: left, address: 10.1.0.1}, right]}
        """
    assert routes(text, "host") == (
        Route(DEFAULTS[4], ip_address("10.3.0.1")),
        Route(ip_network("10.2.0.0/24"), ip_address("10.1.0.1")),
    )


@pytest.mark.parametrize(
    ("subnet", "nodes", "spare"),
    [
        ("10.1.0.0/24", 3, "10.1.0.128/25"),
        ("10.1.0.0/28", 10, "10.1.0.12/30"),
        ("10.1.0.0/29", 5, "10.1.0.0/31"),
        ("fd00:1::/64", 3, "fd00:1:0:0:8000::/65"),
    ],
)
def test_what_others_join_with_is_no_address_of_a_node(subnet, nodes, spare):
    names = ", ".join(f"{{name: n{number}}}" for number in range(nodes))
    lab = plan(f"{{network: {{name: lan, subnet: '{subnet}'}}, nodes: [{names}]}}")
    (pool,) = wire(lab, spares=True)["lan"].request({})["ipam"]["Config"]
    assert pool["IPRange"] == spare
    assert "IPRange" not in wire(lab)["lan"].request({})["ipam"]["Config"][0]
