"""Named network conditions, and which conditions a node has on a network."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_benchscale.topology.conditions import Conditions, Preset
from pytest_benchscale.topology.model import Topology

__all__ = ["BUILT_IN", "effective_conditions", "preset_named", "preset_names"]


def _preset(
    description: str, latency: float, jitter: float, loss: float, bandwidth: float
) -> Preset:
    return Preset(
        description=description,
        latency_ms=latency,
        jitter_ms=jitter,
        packet_loss_percent=loss,
        bandwidth_kbps=bandwidth,
    )


# The figures are those that benchScale's own library of presets has under these names; datacenter and
# broadband are not in it, but files written for it use them, with these figures.
BUILT_IN: Mapping[str, Preset] = {
    "localhost": _preset("one machine: nothing is applied", 0, 0, 0, 0),
    "basement_lan": _preset("one rack, one switch", 0.5, 0.1, 0, 10_000_000),
    "datacenter": _preset("between racks", 1, 0.5, 0, 10_000_000),
    "home_lan": _preset("a home, by cable or Wi-Fi", 2, 1, 0.01, 1_000_000),
    "broadband": _preset("a home's line to a provider", 25, 10, 0.5, 100_000),
    "friend_wan": _preset("from home to home, across cities", 50, 10, 0.5, 100_000),
    "mobile_cell": _preset("a phone on a cellular network", 100, 30, 2, 10_000),
    "urban_congested": _preset("a cell at peak hour", 150, 80, 15, 2_000),
    "intermittent": _preset("tunnels and dead zones", 500, 300, 50, 500),
    "satellite": _preset("a satellite link", 600, 50, 5, 5_000),
    "deep_space": _preset("many hops around the world", 2_000, 200, 10, 1_000),
}


def effective_conditions(topology: Topology, node: str, network: str) -> Conditions | None:
    """Return what acts on the packets that a node sends into a network; None: nothing.

    The network's conditions, the node's and the attachment's are laid one over the other, field by field;
    each of them is its preset with its own figures over it.

    Raises:
        KeyError: there is no such node or network, or the node is not on it.
    """
    link = topology.network(network)
    spec = topology.node(node)
    attachment = next((item for item in spec.networks if item.name == network), None)
    if attachment is None:
        raise KeyError(f"node {node!r} is not on network {network!r}")
    layers = (
        preset_named(topology, link.preset),
        _stated(topology, link.conditions),
        _stated(topology, spec.network_conditions),
        _stated(topology, attachment.network_conditions),
    )
    merged: dict[str, float | str] = {}
    for layer in layers:
        merged.update(layer)
    conditions = Conditions.model_validate(merged)
    return None if conditions.is_noop else conditions


def preset_names(topology: Topology) -> list[str]:
    """Return the names of the presets that a topology may use: its own, and the built-in ones."""
    return list(dict.fromkeys([*topology.presets, *BUILT_IN]))


def preset_named(topology: Topology, preset: str | None) -> dict[str, float | str]:
    """Return what a preset states, by field name; the topology's own presets win over built-in ones.

    Raises:
        KeyError: there is none of that name.
    """
    if preset is None:
        return {}
    return (topology.presets.get(preset) or BUILT_IN[preset]).stated()


def _stated(topology: Topology, conditions: Conditions | None) -> dict[str, float | str]:
    if conditions is None:
        return {}
    return preset_named(topology, conditions.preset) | conditions.stated()
