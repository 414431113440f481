"""A topology, worked out to the last address, device name and route."""

from __future__ import annotations

import hashlib
import re
import uuid

from pytest_benchscale.backends.base import InterfacePlan, LabPlan, NetworkPlan, NodePlan
from pytest_benchscale.backends.requirements import mentions_conditions
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.owner import owner_labels
from pytest_benchscale.lab.routing import Routing
from pytest_benchscale.topology import images
from pytest_benchscale.topology.addressing import Addressing, assign
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.topology.presets import effective_conditions

__all__ = ["build_plan", "hostname_of", "mac_of", "new_lab_id"]

_LABEL = "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"  # RFC 1123, and the underscore in use
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_HOSTNAME = 63


def new_lab_id() -> str:
    """Return a name for a lab that no other lab has."""
    return uuid.uuid4().hex[:8]


def build_plan(
    topology: Topology, backend: str, options: LabOptions, *, lab_id: str | None = None
) -> LabPlan:
    """Decide everything about a lab before the first thing of it is created.

    Raises:
        LabError: there is no free subnet for a network.
        BenchscaleError: the backend has no image for a node.
    """
    lab_id = lab_id or new_lab_id()
    addressing = assign(topology, options.taken)
    routing = Routing(topology, addressing)
    conditions = options.conditions == "enforce" and mentions_conditions(topology)
    return LabPlan(
        lab_id=lab_id,
        name=topology.name,
        directory=topology.directory,
        networks=tuple(
            NetworkPlan(
                name=network.name,
                subnet=addressing.subnets[network.name],
                gateway=addressing.gateways[network.name],
                internet=network.internet,
                spec=network,
            )
            for network in topology.networks
        ),
        nodes=tuple(
            NodePlan(
                name=node.name,
                hostname=hostname_of(node.name),
                image=images.resolve(node.image, backend, options.images),
                interfaces=_interfaces(topology, node.name, addressing, conditions=conditions),
                routes=routing.routes(node.name),
                hosts=routing.hosts(node.name),
                forwards=node.name in routing.routers,
                env=dict(node.env),
                spec=node,
            )
            for node in topology.nodes
        ),
        timeout_scale=options.timeout_scale,
        prepared=options.prepared,
        images=options.images,
        labels=owner_labels(),
        progress=options.progress,
        may_keep=options.keep != "never" or options.reuse,
    )


def _interfaces(
    topology: Topology, node: str, addressing: Addressing, *, conditions: bool
) -> tuple[InterfacePlan, ...]:
    return tuple(
        InterfacePlan(
            network=network,
            device=f"eth{number}",
            mac=mac_of(node, network),
            address=address,
            conditions=effective_conditions(topology, node, network) if conditions else None,
        )
        for number, (network, address) in enumerate(addressing.addresses[node].items())
    )


def hostname_of(name: str) -> str:
    """Return a node's name as a host name: itself where it is one, else short and plain, with a hash."""
    if len(name) <= _LONGEST_HOSTNAME and _HOSTNAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[: _LONGEST_HOSTNAME - 9].strip("-")
    return f"{plain}-{digest}" if plain else f"node-{digest}"


def mac_of(node: str, network: str) -> str:
    """Return a MAC for an attachment: locally administered, unicast, and the same in every lab.

    Labs share no network, so that it need not differ; and a machine finds the devices that it had.
    """
    digest = bytearray(hashlib.sha256(f"{node}\0{network}".encode()).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02  # IEEE 802: bit 1 is "local", bit 0 "group"
    return digest.hex(":")
