"""Which subnet each network has and which address each node, decided before anything is created."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.fields import IpAddress, IpInterface, IpNetwork
from pytest_benchscale.topology.model import Network, Topology

__all__ = [
    "Addressing",
    "IpAddress",
    "IpInterface",
    "IpNetwork",
    "assign",
    "host_bounds",
    "overlap",
]

# Private ranges that absent subnets are taken from, in this order. RFC 1918, RFC 6598, RFC 4193.
_POOLS: Sequence[IpNetwork] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    IPv6Network("fd00::/16"),
)
_LONGEST_PREFIX = 24


@dataclass(frozen=True, slots=True)
class Addressing:
    """The addresses of a topology, by the names of its networks and nodes.

    A network's gateway is the declared one or the lowest address that no node asks for; it is None where
    the subnet has no room for it. It may be a declared node's address: that node is the router.
    """

    subnets: Mapping[str, IpNetwork]
    gateways: Mapping[str, IpAddress | None]
    addresses: Mapping[str, Mapping[str, IpInterface]]


def assign(topology: Topology, taken: Iterable[IpNetwork] = ()) -> Addressing:
    """Return the addresses of every node; the same topology and `taken` always give the same.

    Declared subnets and addresses stand. An absent subnet is a /24 of a private range, larger when the
    nodes need it, that overlaps neither a declared subnet nor one of `taken`. Nodes get addresses in the
    order of the file, after the gateway's.

    Raises:
        LabError: no private range has a free subnet.
    """
    members = _members(topology)
    avoid = [*taken, *(network.subnet for network in topology.networks if network.subnet)]
    subnets: dict[str, IpNetwork] = {}
    gateways: dict[str, IpAddress | None] = {}
    addresses: dict[str, dict[str, IpInterface]] = {node.name: {} for node in topology.nodes}
    for network in topology.networks:
        wishes = members[network.name]
        subnet = network.subnet or _free_subnet(network.name, len(wishes), avoid)
        avoid.append(subnet)
        subnets[network.name] = subnet
        gateway = _gateway(network, subnet, wishes)
        gateways[network.name] = gateway
        for node, address in _addresses(subnet, gateway, wishes):
            interface = ip_interface(f"{address}/{subnet.prefixlen}")
            addresses[node][network.name] = interface
    return Addressing(subnets, gateways, _in_order_of_the_nodes(topology, addresses))


def host_bounds(subnet: IpNetwork) -> tuple[int, int]:
    """Return the lowest and the highest address of a subnet that a node can have, as integers.

    IPv4 loses the network and the broadcast address, except on a /31 (RFC 3021) or /32; IPv6 loses the
    subnet-router anycast address, except on a /127 (RFC 6164) or /128.
    """
    low, high = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return low, high
    return low + 1, high - (subnet.version == 4)


_Wishes = Mapping[str, IpAddress | None]


def _members(topology: Topology) -> dict[str, dict[str, IpAddress | None]]:
    """Return, by network, the nodes on it in order, each with the address that it asks for."""
    members: dict[str, dict[str, IpAddress | None]] = {
        network.name: {} for network in topology.networks
    }
    for node in topology.nodes:
        for attachment in node.networks:
            members[attachment.name][node.name] = attachment.address
    return members


def _free_subnet(name: str, nodes: int, avoid: Sequence[IpNetwork]) -> IpNetwork:
    host_bits = max(32 - _LONGEST_PREFIX, (nodes + 2).bit_length())  # nodes, gateway, two reserved
    for pool in _POOLS:
        bits = host_bits if pool.version == 4 else 64
        low, end = int(pool.network_address), int(pool.broadcast_address)
        while low + (1 << bits) - 1 <= end:
            candidate = ip_network((int_to_address(low, pool), pool.max_prefixlen - bits))
            overlapping = [other for other in avoid if overlap(candidate, other)]
            if not overlapping:
                return candidate
            beyond = max(int(other.broadcast_address) for other in overlapping) + 1
            low = -(-beyond >> bits) << bits  # rounded up to the candidates' alignment
    raise LabError(
        f"no free subnet for network {name!r}",
        step="addressing",
        resolution="declare a subnet that this machine does not use",
    )


def int_to_address(number: int, like: IpNetwork) -> IpAddress:
    """Return an address of the same version as a subnet."""
    return type(like.network_address)(number)


def overlap(one: IpNetwork, other: IpNetwork) -> bool:
    """Return whether two subnets have an address in common."""
    return one.version == other.version and one.overlaps(other)


def _gateway(network: Network, subnet: IpNetwork, wishes: _Wishes) -> IpAddress | None:
    if network.gateway is not None:
        return network.gateway
    low, high = host_bounds(subnet)
    if high - low + 1 <= len(wishes):
        return None
    asked_for = {int(address) for address in wishes.values() if address is not None}
    return int_to_address(_first_free(low, asked_for), subnet)


def _first_free(low: int, used: set[int]) -> int:
    while low in used:
        low += 1
    return low


def _addresses(
    subnet: IpNetwork, gateway: IpAddress | None, wishes: _Wishes
) -> Iterator[tuple[str, IpAddress]]:
    used = {int(address) for address in wishes.values() if address is not None}
    if gateway is not None:
        used.add(int(gateway))
    cursor, _ = host_bounds(subnet)
    for node, wish in wishes.items():
        if wish is None:
            cursor = _first_free(cursor, used)
            yield node, int_to_address(cursor, subnet)
            cursor += 1
        else:
            yield node, wish


def _in_order_of_the_nodes(
    topology: Topology, addresses: Mapping[str, Mapping[str, IpInterface]]
) -> dict[str, dict[str, IpInterface]]:
    """Return the same, each node's networks in the order in which it names them."""
    return {
        node.name: {
            attachment.name: addresses[node.name][attachment.name] for attachment in node.networks
        }
        for node in topology.nodes
    }
