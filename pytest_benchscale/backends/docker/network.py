"""A lab's networks as Docker's: which kind each is, its bridge's address, and how nodes are attached.

A network of Docker's that is `internal` has no way out, but more comes with that: whatever has an
address of elsewhere is dropped, which are routed packets, broadcasts to 255.255.255.255 and multicast,
and no port can be published. So a network without a way out is an ordinary one without translation of
addresses, and what leads out, the default route, is removed from its nodes. Where that cannot be done,
it is `internal` unless the topology needs what that drops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from pytest_benchscale.backends.base import LabPlan, NetworkPlan, NodePlan, Route
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.addressing import IpAddress, IpNetwork, host_bounds

__all__ = ["DEFAULTS", "Wiring", "joins_in_order", "routes_of", "wire"]

DEFAULTS: Mapping[int, IpNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
"""Everywhere, by IP version."""

_LONGEST_NAME = 40
_FINEST_PART = 6  # bits: a 64th of a subnet
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one network is made. `bridge_address` is the host's own address on it.

    `spare` is the part of the subnet of which Docker gives addresses to others, who join the network.
    """

    plan: NetworkPlan
    docker_name: str
    internal: bool
    bridge_address: IpAddress | None
    spare: IpNetwork | None = None

    @property
    def is_ipv6(self) -> bool:
        """Whether its subnet is one of IPv6."""
        return self.plan.subnet.version == 6

    def request(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return what the SDK's `create_network` is to be given.

        Raises:
            LabError: the subnet has no address left for the bridge.
        """
        if self.bridge_address is None:
            raise LabError(
                f"network {self.plan.name!r}: the subnet {self.plan.subnet} has no address left for "
                "its bridge, which a container network needs",
                step="network",
                resolution="give the network a larger `subnet:`",
            )
        pool = {"Subnet": str(self.plan.subnet), "Gateway": str(self.bridge_address)}
        if self.spare is not None:
            pool["IPRange"] = str(self.spare)
        isolated = not self.internal and not self.plan.internet
        return {
            "name": self.docker_name,
            "driver": "bridge",
            "internal": self.internal,
            "enable_ipv6": self.is_ipv6,
            "ipam": {"Driver": "default", "Config": [pool]},
            "labels": dict(labels),
            "options": {_MASQUERADE: "false"} if isolated else {},
        }


def wire(
    lab: LabPlan, *, internal: bool = True, routes_internally: bool = False, spares: bool = False
) -> dict[str, Wiring]:
    """Return how each network of a lab is to be made, by its name.

    `internal`: whether any may be that; `routes_internally`: whether routed packets pass there; `spares`:
    Docker does not know all addresses of the lab, and is to keep away from them.
    """
    routers = [node for node in lab.nodes if node.forwards and not routes_internally]
    routed = {one.network for node in routers for one in node.interfaces}
    outside = {network.name for network in lab.networks if network.internet}
    opened = routed | outside
    for node in lab.nodes:
        attached = [one.network for one in node.interfaces]
        if node.spec.ports and attached and opened.isdisjoint(attached):
            opened.add(attached[0])
    width = len(str(len(lab.networks)))
    return {
        network.name: Wiring(
            plan=network,
            docker_name=f"benchscale-{lab.lab_id}-{number:0{width}}-{network.name[:_LONGEST_NAME]}",
            internal=internal and network.name not in opened,
            bridge_address=_bridge_address(network, lab.nodes),
            spare=_spare(network, lab.nodes) if spares else None,
        )
        for number, network in enumerate(lab.networks)
    }


def joins_in_order(first: Wiring, second: Wiring) -> bool:
    """Return whether Docker names the devices of a container on these two networks in this order.

    It sorts what a container joins before its start (`Less` of two endpoints in libnetwork): networks
    with a way out first, then those with gateways for both IP versions, then by name. A network of IPv6
    has both.
    """

    def rank(wiring: Wiring) -> tuple[bool, bool, str]:
        return wiring.internal, not wiring.is_ipv6, wiring.docker_name

    return rank(first) < rank(second)


def routes_of(plan: NodePlan, wirings: Mapping[str, Wiring]) -> tuple[Route, ...]:
    """Return the routes through gateways that a node is to have, the default ones first.

    The way to the outside is the bridge. A node that publishes ports keeps it too: who connects
    from another machine is answered that way.
    """
    attached = [wirings[one.network] for one in plan.interfaces]
    ways_out = [wiring for wiring in attached if wiring.plan.internet]
    has_default = any(not route.destination.prefixlen for route in plan.routes)
    if not ways_out and plan.spec.ports and not has_default:
        ways_out = [wiring for wiring in attached if not wiring.internal]
    if not ways_out or (bridge := ways_out[0].bridge_address) is None:
        return plan.routes
    rest = (route for route in plan.routes if route.destination.prefixlen)
    return (Route(DEFAULTS[bridge.version], bridge), *rest)


def _bridge_address(network: NetworkPlan, nodes: Sequence[NodePlan]) -> IpAddress | None:
    """Return the gateway's address, or, where that is a node's, the highest that is free."""
    taken = _taken(network, nodes)
    if network.gateway is not None and network.gateway not in taken:
        return network.gateway
    low, high = host_bounds(network.subnet)
    make = type(network.subnet.network_address)
    return next((make(n) for n in range(high, low - 1, -1) if make(n) not in taken), None)


def _spare(network: NetworkPlan, nodes: Sequence[NodePlan]) -> IpNetwork | None:
    """Return a part of a subnet in which no node has an address, as large and as far up as can be."""
    taken, subnet = _taken(network, nodes), network.subnet
    for longer in range(1, min(_FINEST_PART, subnet.max_prefixlen - subnet.prefixlen) + 1):
        parts: list[IpNetwork] = [*subnet.subnets(prefixlen_diff=longer)]
        for part in reversed(parts):
            if not any(address in part for address in taken):
                return part
    return None


def _taken(network: NetworkPlan, nodes: Sequence[NodePlan]) -> set[IpAddress]:
    return {
        one.address.ip for node in nodes for one in node.interfaces if one.network == network.name
    }
