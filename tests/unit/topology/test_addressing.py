"""Which subnet each network has and which address each node."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

import pytest

from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.addressing import assign, host_bounds


def _addresses(topology, *taken):
    found = assign(topology, [ip_network(subnet) for subnet in taken])
    return {
        f"{node}@{network}": str(interface)
        for node, interfaces in found.addresses.items()
        for network, interface in interfaces.items()
    }


def test_nodes_get_addresses_in_the_order_of_the_file_after_the_gateway(load):
    topology = load(
        """
networks:
  - {name: lan, subnet: 10.1.0.0/24}
  - {name: wan, subnet: "fd00:1::/64", gateway: "fd00:1::2"}
nodes:
  - {name: a, networks: [wan, lan]}
  - {name: b, networks: [{name: lan, address: 10.1.0.3}]}
  - {name: c}
"""
    )
    assert _addresses(topology) == {
        "a@wan": "fd00:1::1/64",
        "a@lan": "10.1.0.2/24",
        "b@lan": "10.1.0.3/24",
        "c@lan": "10.1.0.4/24",
        "c@wan": "fd00:1::3/64",
    }
    found = assign(topology)
    assert found.gateways == {"lan": ip_address("10.1.0.1"), "wan": ip_address("fd00:1::2")}
    assert list(found.addresses["a"]) == ["wan", "lan"]


def test_a_node_that_asks_for_the_gateways_address_is_the_router(load):
    topology = load(
        """
network: {name: lan, subnet: 10.1.0.0/30, gateway: 10.1.0.2}
nodes: [{name: a}, {name: r, networks: [{name: lan, address: 10.1.0.2}]}]
"""
    )
    assert _addresses(topology) == {"a@lan": "10.1.0.1/30", "r@lan": "10.1.0.2/30"}


def test_a_gateway_that_is_not_declared_is_never_a_nodes_address(load):
    topology = load(
        """
network: {name: lan, subnet: 10.1.0.0/24}
nodes: [{name: a}, {name: b, networks: [{name: lan, address: 10.1.0.1}]}]
"""
    )
    assert assign(topology).gateways["lan"] == ip_address("10.1.0.2")
    assert _addresses(topology) == {"a@lan": "10.1.0.3/24", "b@lan": "10.1.0.1/24"}


@pytest.mark.parametrize(
    ("subnet", "nodes"),
    [
        ("10.0.0.0/30", 2),
        ("10.0.0.0/31", 2),
        ("10.0.0.0/32", 1),
        ("fd00::/127", 2),
        ("fd00::/126", 3),
    ],
)
def test_a_full_subnet_has_no_gateway(load, subnet, nodes):
    names = ", ".join(f"{{name: n{i}}}" for i in range(nodes))
    found = assign(load(f"network: {{name: lan, subnet: '{subnet}'}}\nnodes: [{names}]"))
    assert found.gateways == {"lan": None}
    assert len({interfaces["lan"].ip for interfaces in found.addresses.values()}) == nodes


def test_absent_subnets_avoid_declared_ones_each_other_and_what_is_taken(load):
    topology = load(
        """
networks: [{name: a}, {name: b, subnet: 10.0.1.0/24}, {name: c}, {name: d}]
nodes: [{name: n}]
"""
    )
    found = assign(topology, [IPv4Network("10.0.0.0/24"), IPv4Network("10.0.3.64/26")])
    assert [str(subnet) for subnet in found.subnets.values()] == [
        "10.0.2.0/24",
        "10.0.1.0/24",
        "10.0.4.0/24",
        "10.0.5.0/24",
    ]


def test_an_absent_subnet_is_as_large_as_its_nodes_need(load):
    nodes = ", ".join(f"{{name: n{i}}}" for i in range(300))
    found = assign(load(f"nodes: [{nodes}]"), [IPv4Network("10.0.0.0/24")])
    assert found.subnets["lan"] == IPv4Network("10.0.2.0/23")
    assert found.addresses["n299"]["lan"] == ip_interface("10.0.3.45/23")


@pytest.mark.parametrize(("nodes", "prefix"), [(253, 24), (254, 23), (509, 23), (510, 22)])
def test_an_absent_subnet_has_room_for_the_gateway_too(load, nodes, prefix):
    text = "nodes: [" + ", ".join(f"{{name: n{i}}}" for i in range(nodes)) + "]"
    found = assign(load(text))
    assert found.subnets["lan"].prefixlen == prefix
    assert found.gateways["lan"] == ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (["10.0.0.0/8"], "172.16.0.0/24"),
        (["10.0.0.0/8", "172.16.0.0/12"], "192.168.0.0/24"),
        (["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "100.64.0.0/24"),
        (["0.0.0.0/0"], "fd00::/64"),
        (["0.0.0.0/0", "fd00::/64"], "fd00:0:0:1::/64"),
    ],
)
def test_the_next_private_range_is_used_when_one_is_full(load, taken, expected):
    found = assign(load("nodes: [{name: a}]"), [ip_network(subnet) for subnet in taken])
    assert str(found.subnets["lan"]) == expected


def test_no_free_range_at_all_is_an_error_with_what_to_do(load):
    with pytest.raises(LabError, match="no free subnet for network 'lan'") as caught:
        assign(load("nodes: [{name: a}]"), [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")])
    assert caught.value.resolution


def test_the_same_topology_always_has_the_same_addresses(load):
    text = "networks: [{name: a}, {name: b}]\nnodes: [{name: x}, {name: y, networks: [b]}]"
    assert assign(load(text)) == assign(load(text))


@pytest.mark.parametrize(
    ("subnet", "low", "high"),
    [
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
        ("10.0.0.0/32", "10.0.0.0", "10.0.0.0"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ("fd00::/127", "fd00::", "fd00::1"),
    ],
)
def test_the_bounds_of_a_subnet_are_what_a_node_can_have(subnet, low, high):
    expected = (int(ip_address(low)), int(ip_address(high)))
    assert host_bounds(ip_network(subnet)) == expected
