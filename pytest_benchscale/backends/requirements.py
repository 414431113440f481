"""What a topology needs of a backend, found before anything is created."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.topology.model import NodeSpec, Topology
from pytest_benchscale.topology.presets import effective_conditions

__all__ = ["Need", "conditions_needed", "mentions_conditions", "unmet"]


class Need(NamedTuple):
    """A capability, and the place in the topology that asks for it."""

    capability: Capability
    where: str


_NODE_KEYS = {
    "disk_gb": Capability.DISK_SIZE,
    "cloud_init": Capability.CLOUD_INIT,
    "existing": Capability.EXISTING,
    "platform": Capability.PLATFORM,
    "ports": Capability.PUBLISHED_PORTS,
    "volumes": Capability.VOLUMES,
    "command": Capability.MAIN_COMMAND,
}


def unmet(topology: Topology, capabilities: Collection[Capability]) -> list[Need]:
    """Return what the topology cannot do without and the backend does not have, in file order.

    Limits of memory and processors are not in it: a backend that does not enforce them says so in
    its notes. Nor are conditions, about which the user has a say.
    """
    return [need for need in _needs(topology) if need.capability not in capabilities]


def conditions_needed(topology: Topology) -> Need | None:
    """Return where a topology first declares conditions that would change anything."""
    if not mentions_conditions(topology):
        return None
    for node in topology.nodes:
        for attachment in node.networks:
            if effective_conditions(topology, node.name, attachment.name) is not None:
                where = f"node {node.name!r} on network {attachment.name!r}"
                return Need(Capability.CONDITIONS, where)
    return None


def mentions_conditions(topology: Topology) -> bool:
    """Return whether a topology says anything at all about the quality of its links."""
    return any(network.preset or network.conditions for network in topology.networks) or any(
        node.network_conditions or any(item.network_conditions for item in node.networks)
        for node in topology.nodes
    )


def _needs(topology: Topology) -> Iterator[Need]:
    for network in topology.networks:
        if network.internet:
            yield Need(Capability.INTERNET, f"network {network.name!r}: internet")
    for node in topology.nodes:
        yield from _node_needs(node)


def _node_needs(node: NodeSpec) -> Iterator[Need]:
    for key, capability in _NODE_KEYS.items():
        if getattr(node, key):
            yield Need(capability, f"node {node.name!r}: {key}")
