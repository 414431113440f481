"""Which labs of a session stay when it ends, and what the user is told of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.topology.model import Topology

__all__ = ["KEPT_AT_MOST", "REUSED_AT_MOST", "Fate", "Keeper", "how_to_get_in", "in_the_way"]

KEPT_AT_MOST = 5
"""How many labs a session keeps for its user; a hundred tests may fail for one reason."""

REUSED_AT_MOST = 20
"""How many labs a session leaves to the next one."""

_NODES = 8  # of one lab, that the summary has a line for


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a lab in its session. `used_on`: why further tests used it after one had failed.

    With a `fingerprint` and `clean`, it is of use to the next session.
    """

    failed: bool = False
    clean: bool = True
    used_on: str | None = None
    fingerprint: str | None = None

    def __str__(self) -> str:
        if not self.failed:
            return "its tests passed" if self.clean else "its tests did not end"
        if self.used_on is None:
            return "a test of it failed"
        return (
            f"a test of it failed, and further ones used it ({self.used_on}, so that there was no "
            "second one)"
        )


@dataclass(frozen=True, slots=True)
class _KeptLab:
    lab_id: str
    name: str
    backend: str
    nodes: tuple[str, ...]
    until: float  # seconds since 1970
    why: str


class Keeper:
    """Decides about the labs that are given up, and keeps those that shall stay."""

    def __init__(self, options: LabOptions) -> None:
        self._options = options
        self._kept: list[_KeptLab] = []
        self._left_to_the_next: list[_KeptLab] = []
        self._too_many = 0

    def has_room(self) -> bool:
        """Whether one more failed lab will be kept."""
        return self._options.keep != "never" and len(self._kept) < KEPT_AT_MOST

    def leave(self, lab: Lab, fate: Fate) -> bool:
        """Keep a lab, if it shall stay; called from outside of its loop.

        Raises:
            BenchscaleError: it shall, but cannot.
        """
        if not lab.is_up or lab.lab_id is None:
            return False
        asked = self._options.keep == "always" or (fate.failed and self._options.keep == "failed")
        kept = asked and self.has_room()
        self._too_many += asked and not kept
        reuse = fate.clean and fate.fingerprint is not None and self._may_be_reused(lab)
        if not (kept or reuse):
            return False
        seconds = self._options.keep_for
        lab.sync.keep(
            seconds,
            dirty=not fate.clean,
            reuse=reuse,
            fingerprint=fate.fingerprint,
            conditioned=not reuse,
        )
        one = _KeptLab(
            lab.lab_id, lab.name, lab.backend, tuple(lab.nodes), time.time() + seconds, str(fate)
        )
        (self._kept if kept else self._left_to_the_next).append(one)
        return True

    def _may_be_reused(self, lab: Lab) -> bool:
        return (
            self._options.reuse
            and len(self._left_to_the_next) < REUSED_AT_MOST
            and Capability.KEEP in registry.get(lab.backend).capabilities
            and all(node.status is NodeStatus.RUNNING for node in lab.nodes.values())
        )

    def kept_lines(self) -> list[str]:
        """Return what to tell of the labs that were kept for the user: how to get in, how to end them."""
        lines: list[str] = []
        for one in self._kept:
            until = _when(one.until)
            lines += [f"lab {one.name!r} on {one.backend!r}, until {until}; {one.why}:"]
            lines += how_to_get_in(one.lab_id, one.nodes)
        if self._too_many:
            lines.append(
                f"a session keeps {KEPT_AT_MOST} labs at most: {self._too_many} more "
                f"{'was' if self._too_many == 1 else 'were'} taken down"
            )
        return lines

    def reuse_lines(self) -> list[str]:
        """Return what to tell of the labs that the next session may take over."""
        return [
            f"lab {one.name!r} on {one.backend!r} waits for the next session until "
            f"{_when(one.until)}: benchscale down {one.lab_id}"
            for one in self._left_to_the_next
        ]


def how_to_get_in(lab_id: str, nodes: Sequence[str]) -> Iterator[str]:
    """Yield the commands for a kept lab, as they can be typed."""
    for node in nodes[:_NODES]:
        yield f"  benchscale shell {lab_id} {node}"
    if len(nodes) > _NODES:
        yield f"  ... and so for {len(nodes) - _NODES} more"
    yield f"  benchscale down {lab_id}"


def in_the_way(topology: Topology, backend: str) -> str | None:
    """Return why a second lab of a topology cannot be up beside the first; None: it can."""
    if registry.get(backend).shares_addresses and any(one.subnet for one in topology.networks):
        return "its subnets are declared"
    if any(node.existing for node in topology.nodes):
        return "it uses a machine that is there already"
    if any(":" in port for node in topology.nodes for port in node.ports):
        return "it publishes ports"
    return None


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
