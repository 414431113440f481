"""The names of everything that a lab makes: each follows from the lab's id, and no two labs share one.

What belongs to a lab is found again by its name, also when the call that made it was cut short.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_benchscale.backends.base import LabPlan

__all__ = [
    "LAB",
    "NAMESPACE",
    "NODE",
    "RUN",
    "Names",
    "lab_of_volume",
    "mac_of_bridge",
    "mac_of_management",
]

NAMESPACE = "https://pytest-benchscale.readthedocs.io/libvirt/1"
"""Of the element with a lab's labels in the metadata of domains and networks."""

RUN, LAB, NODE = "benchscale.run", "benchscale.lab", "benchscale.node"
"""The labels by which they are found."""

_VOLUME = re.compile(
    r"benchscale-(?P<run>[0-9a-f]+)-(?P<lab>[0-9a-f]+)-[0-9]+-[A-Za-z0-9-]+\.(disk|seed|console)"
)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one lab's things. Linux takes 15 characters for a device."""

    lab_id: str
    run: str
    nodes: Mapping[str, int]
    networks: Mapping[str, int]

    @classmethod
    def of(cls, plan: LabPlan) -> Names:
        """Return those of a lab."""
        return cls(
            plan.lab_id,
            plan.labels.get(RUN, ""),
            {node.name: number for number, node in enumerate(plan.nodes)},
            {network.name: number for number, network in enumerate(plan.networks)},
        )

    @property
    def management(self) -> str:
        """The network by which we reach the guests."""
        return f"benchscale-{self.lab_id}-management"

    @property
    def management_bridge(self) -> str:
        """Its bridge."""
        return f"bm{self.lab_id}"

    def network(self, name: str) -> str:
        """A network of the topology's."""
        return f"benchscale-{self.lab_id}-{_plain(name)}-{self.networks[name]}"

    def bridge(self, name: str) -> str:
        """Its bridge."""
        return f"bn{self.lab_id}-{self.networks[name]:x}"

    def domain(self, node: str) -> str:
        """A node's domain."""
        return f"benchscale-{self.lab_id}-{_plain(node)}-{self.nodes[node]}"

    def tap(self, node: str, interface: int) -> str:
        """The host's end of a node's link; 0 is the one of the management network."""
        return f"bt{self.lab_id}{self.nodes[node]:03x}{interface:02x}"

    def volume(self, node: str, kind: str) -> str:
        """A file of a node's in the storage pool."""
        return f"{self.volumes}{self.nodes[node]}-{_plain(node)}.{kind}"

    @property
    def volumes(self) -> str:
        """How the names of all the lab's volumes begin."""
        return f"benchscale-{self.run or '0'}-{self.lab_id}-"


def lab_of_volume(name: str, run: str | None) -> str | None:
    """Return the lab that a volume is of, if that is one of the run's; None: of any run's."""
    match = _VOLUME.fullmatch(name)
    return match["lab"] if match and run in (None, match["run"]) else None


def mac_of_management(node: str) -> str:
    """Return the MAC of a node's management interface, the same in every lab: labs share no network."""
    return _mac(f"{node}\0management")


def mac_of_bridge(network: str) -> str:
    """Return the MAC of the daemon's machine on a network, the same in every lab."""
    return _mac(f"{network}\0bridge")


def _mac(what: str) -> str:
    """Return a MAC out of QEMU's own range."""
    return f"52:54:00:{hashlib.sha256(what.encode()).digest()[:3].hex(':')}"


def _plain(name: str) -> str:
    """Return a name as files may have it, short; what makes it unique is the number beside it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-") or "x"
