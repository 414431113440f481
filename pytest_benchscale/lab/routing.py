"""Who forwards for whom: routes and host tables of a topology.

A node that asks for a network's gateway address is that network's router. Every node is given the
routes to all networks that routers lead to, hop by hop, the shortest way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from pytest_benchscale.backends.base import Route
from pytest_benchscale.topology.addressing import Addressing, IpAddress
from pytest_benchscale.topology.model import Topology

__all__ = ["Routing"]

_EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class Routing:
    """The routes and host tables of every node of a topology."""

    def __init__(self, topology: Topology, addressing: Addressing) -> None:
        self._subnets = addressing.subnets
        self._gateways = addressing.gateways
        self._addresses = {
            node: {network: interface.ip for network, interface in interfaces.items()}
            for node, interfaces in addressing.addresses.items()
        }
        self._router_of = {
            network: node
            for node, addresses in self._addresses.items()
            for network, address in addresses.items()
            if address == self._gateways[network]
        }
        self._internet = {network.name for network in topology.networks if network.internet}
        self._hops: dict[tuple[str, ...], Mapping[str, IpAddress]] = {}
        self._hosts: dict[tuple[str, ...], Mapping[str, tuple[IpAddress, ...]]] = {}
        self.routers = frozenset(self._router_of.values())
        """The nodes that own a network's gateway address."""

    def routes(self, node: str) -> tuple[Route, ...]:
        """Return a node's routes: the default ones first, then what they do not cover."""
        defaults = self._defaults(node)
        hops = self._first_hops(tuple(self._addresses[node]))
        return (
            *(Route(_EVERYWHERE[version], via) for version, via in defaults.items()),
            *(
                Route(self._subnets[network], via)
                for network, via in hops.items()
                if defaults.get(via.version) != via
            ),
        )

    def hosts(self, node: str) -> Mapping[str, tuple[IpAddress, ...]]:
        """Return by which addresses a node reaches every node, itself included.

        Those on a network that both are on; without one, those that routers lead to; for a node
        out of reach all that it has, so that every name resolves. Nodes on the same networks share
        one mapping.
        """
        own = tuple(self._addresses[node])
        if own not in self._hosts:
            beyond = tuple(self._first_hops(own))
            self._hosts[own] = {
                name: _some(addresses, own) or _some(addresses, beyond) or tuple(addresses.values())
                for name, addresses in self._addresses.items()
            }
        return self._hosts[own]

    def _defaults(self, node: str) -> dict[int, IpAddress]:
        """Return the default gateways by IP version: to the outside first, else the first router."""
        own = self._addresses[node]
        outside = [network for network in own if network in self._internet]
        routed = [network for network in own if network in self._router_of]
        defaults: dict[int, IpAddress] = {}
        for network in (*outside, *routed):
            gateway = self._gateways[network]
            if gateway is not None and gateway != own[network]:
                defaults.setdefault(gateway.version, gateway)
        return defaults

    def _first_hops(self, own: tuple[str, ...]) -> Mapping[str, IpAddress]:
        """Return the networks beyond a node's own, each with the router's address to send it to."""
        if own not in self._hops:
            hops: dict[str, IpAddress] = {}
            queue = deque(own if self.routers else ())
            while queue:
                network = queue.popleft()
                for router in self._routers_on(network):
                    near = self._addresses[router]
                    for beyond in near:
                        if (
                            beyond not in own
                            and beyond not in hops
                            and near[beyond].version == near[network].version
                        ):
                            hops[beyond] = hops.get(network) or near[network]
                            queue.append(beyond)
            self._hops[own] = hops
        return self._hops[own]

    def _routers_on(self, network: str) -> list[str]:
        """Return the routers on a network, its own first."""
        return sorted(
            (router for router in self.routers if network in self._addresses[router]),
            key=lambda router: (self._router_of.get(network) != router, router),
        )


def _some(addresses: Mapping[str, IpAddress], networks: Iterable[str]) -> tuple[IpAddress, ...]:
    return tuple(addresses[network] for network in networks if network in addresses)
