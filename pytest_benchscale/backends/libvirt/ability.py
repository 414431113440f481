"""What of a topology a libvirt daemon cannot run, or does not do as it is declared."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.connection import is_local
from pytest_benchscale.backends.libvirt.remote import is_by_ssh
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.topology import images as catalogue
from pytest_benchscale.topology.model import NodeSpec, Topology

__all__ = ["check_memory", "needs_way_out", "notes_on", "why_not"]

_KEYS_OF_A_NEW_MACHINE = ("image", "memory_mb", "vcpus", "disk_gb")


def why_not(topology: Topology, images: Mapping[str, str], uri: str) -> Iterator[str]:
    """Yield the reasons why virtual machines of the daemon at `uri` cannot be what the topology wants."""
    if any(node.existing is None for node in topology.nodes):
        yield from _against_daemon(uri)
    for node in topology.nodes:
        for reason in _of_existing(node) if node.existing else _of_new(node, images):
            yield f"node {node.name!r}: {reason}"


def notes_on(topology: Topology, acceleration: Acceleration | None) -> Iterator[str]:
    """Yield what the user should know of how the topology is run."""
    if acceleration is not None and acceleration.kind == "qemu":
        yield f"guests run under emulation, which is slow: {acceleration.why}"
    outside = {network.name for network in topology.networks if network.internet}
    if open_ones := [node.name for node in topology.nodes if needs_way_out(node, outside)]:
        yield (
            f"{', '.join(open_ones)}: reaches the outside through its management interface, to install "
            "packages"
        )


def needs_way_out(node: NodeSpec, outside: Collection[str]) -> bool:
    """Return whether a node is to install packages and is on no network that leads to where they are."""
    if node.existing or node.cloud_init is None or not node.cloud_init.packages:
        return False
    return not any(one.name in outside for one in node.networks)


def _against_daemon(uri: str) -> Iterator[str]:
    """Yield why machines cannot be made there; those that are there can be used."""
    is_session = uri.partition("?")[0].endswith("/session")
    if not is_local(uri) and not is_by_ssh(uri):
        yield (
            f"machines made at {uri} would be on a network of that machine, out of our reach; by ssh they "
            "can be reached: set LIBVIRT_DEFAULT_URI=qemu+ssh://USER@HOST/system"
        )
    elif is_session and (os.geteuid() != 0 or not is_local(uri)):
        yield (
            f"{uri} is a user's own daemon, which may make no bridges for networks; use that of the system: "
            "set LIBVIRT_DEFAULT_URI=qemu:///system, and join the group that may use it, "
            "`usermod -aG libvirt $USER`"
        )


def _of_new(node: NodeSpec, images: Mapping[str, str]) -> Iterator[str]:
    try:
        catalogue.resolve(node.image, "libvirt", images)
    except BenchscaleError as error:
        yield str(error)
    if node.vcpus is not None and node.vcpus != int(node.vcpus):
        yield f"a virtual machine has whole processors, not {node.vcpus:g}"
    for key in ("ssh", "address"):
        if getattr(node, key) is not None:
            yield f"{key} is for a machine that is there already, with `existing`"


def _of_existing(node: NodeSpec) -> Iterator[str]:
    for key in _KEYS_OF_A_NEW_MACHINE:
        if getattr(node, key) is not None:
            yield f"{key} is for a machine that is made, and {node.existing!r} is there"


def check_memory(plan: LabPlan, there: int) -> None:
    """Check that the daemon's machine has the memory, `there` MiB, that each node wants.

    Raises:
        LabError: it has not.
    """
    for node in plan.nodes:
        wanted = node.spec.memory_mb or 0
        if wanted > there:
            raise LabError(
                f"node {node.name!r} wants {wanted} MiB of memory, and the daemon's machine has {there}",
                node=node.name,
                step="memory",
                resolution="give it a smaller `memory_mb`",
            )
