"""Who has which subnet: the daemon's networks, and the routes of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any, NamedTuple

from anyio import to_thread

from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.network import kernel_routes
from pytest_benchscale.topology.addressing import IpNetwork

__all__ = ["Holding", "holder_of", "in_use", "is_routed", "of_networks", "of_routes"]


class Holding(NamedTuple):
    """A subnet and the words for who has it."""

    subnet: IpNetwork
    holder: str


async def in_use(engine: Engine, dialect: Dialect) -> list[Holding]:
    """Return every subnet that a network of the daemon or a route of its machine has.

    Raises:
        ApiError, BackendUnavailable: the daemon does not say.
    """
    networks = await engine.call(engine.client.networks)
    holdings = of_networks(networks)
    if engine.address.is_local:
        routes = await to_thread.run_sync(_read_routes)
        bridges = {_bridge(network, dialect) for network in networks}
        holdings += of_routes(routes, without=bridges)
    return holdings


async def is_routed(subnet: IpNetwork) -> bool:
    """Return whether this machine has a route to a subnet, or to a part of it."""
    routes = await to_thread.run_sync(_read_routes)
    return holder_of(subnet, of_routes(routes, without=())) is not None


def holder_of(subnet: IpNetwork, holdings: Iterable[Holding]) -> str | None:
    """Return who has a subnet or a part of it."""
    for other, holder in holdings:
        if other.version == subnet.version and other.overlaps(subnet):
            return holder if other == subnet else f"{holder}, with {other}"
    return None


def of_networks(networks: Iterable[Mapping[str, Any]]) -> list[Holding]:
    """Return the subnets of the daemon's networks."""
    holdings: list[Holding] = []
    for network in networks:
        labels = network.get("Labels") or {}
        holder = f"network {network['Name']!r} of the daemon has it"
        if lab := labels.get("benchscale.lab"):
            holder = f"lab {lab} of process {labels.get('benchscale.pid', '?')} has it"
        pools = (network.get("IPAM") or {}).get("Config") or ()
        holdings += [
            Holding(ip_network(pool["Subnet"], strict=False), holder)
            for pool in pools
            if pool.get("Subnet")
        ]
    return holdings


def of_routes(routes: Iterable[kernel_routes.KernelRoute], without: Iterable[str]) -> list[Holding]:
    """Return the subnets that a machine has routes to, except through some devices."""
    left_out = set(without)
    return [
        Holding(route.destination, f"this machine has a route to it, through {route.device}")
        for route in routes
        if route.destination.prefixlen and route.device not in left_out
    ]


def _bridge(network: Mapping[str, Any], dialect: Dialect) -> str:
    named: str | None = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return named or f"{dialect.bridge_prefix}{network['Id'][:12]}"


def _read_routes() -> list[kernel_routes.KernelRoute]:
    try:
        return kernel_routes.read()
    except OSError:
        return []  # not Linux, where the daemon is in a machine of its own
