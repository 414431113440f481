"""What is written down of guests that are kept, and whether they are still as it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from xml.etree.ElementTree import fromstring

import libvirt

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, Link
from pytest_benchscale.backends.libvirt.failures import GONE
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.naming import LAB, NODE, RUN, Names
from pytest_benchscale.backends.libvirt.network_xml import labels_of
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.errors import LabError

__all__ = ["noted", "require_networks", "restore", "state_of"]

_PAUSED = frozenset({libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED})
_RUNNING = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED})
_STEP = "adopt"
_WAY_OUT = "remove it, `benchscale down`, and build it anew"


def noted(node: LibvirtNode, keys: LabKeys) -> dict[str, Any]:
    """Return what `restore` needs of a guest, as JSON has it."""
    assert node.spec is not None  # noqa: S101  it was created
    name = node.plan.name
    return {
        "run": node.run if node.is_alive else "",
        "status": str(node.status),
        "reason": node.reason,
        "spec": asdict(node.spec),
        "checkpoint": node.has_checkpoint,
        "key": keys.login_file(name).name,
        "host_key": keys.of(name).host,
    }


def restore(node: LibvirtNode, state: Mapping[str, Any], keys: LabKeys) -> None:
    """Give a node what was noted of it; whether it runs is to be asked.

    Raises:
        LabError: its keys are gone.
    """
    name, spec = node.plan.name, state["spec"]
    node.spec = DomainSpec(
        **{
            **spec,
            "disks": tuple(Disk(*disk) for disk in spec["disks"]),
            "links": tuple(Link(*link) for link in spec["links"]),
        }
    )
    node.console_path = node.spec.console
    node.has_checkpoint = state["checkpoint"]
    node.is_set_up = True
    node.reason = state["reason"]
    try:
        keys.find(name, state["key"], state["host_key"])
    except OSError as error:
        raise _broken(f"the key of node {name!r} is gone: {error}", name) from error


def state_of(raw: Any, node: LibvirtNode, run: str, names: Names) -> NodeStatus:
    """Return how a guest that ran when it was kept is now; in a thread.

    Raises:
        LabError: it is gone, or another one.
        libvirt.libvirtError: the daemon does not say.
    """
    name = node.plan.name
    try:
        domain = raw.lookupByUUIDString(run)
        described = fromstring(domain.XMLDesc(0))  # noqa: S314  the daemon's own words
        state, _ = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE:
            raise _broken(f"node {name!r} has ended: there is no domain {run}", name) from error
        raise
    labels = labels_of(described)
    wanted = {RUN: names.run, LAB: names.lab_id, NODE: name}
    if domain.name() != node.domain or wanted.items() - labels.items():
        raise _broken(f"domain {run} is not the one of node {name!r}: {labels}", name)
    if state in _PAUSED:
        return NodeStatus.PAUSED
    if state not in _RUNNING:
        raise _broken(f"node {name!r} is about to end", name)
    return NodeStatus.RUNNING


def require_networks(raw: Any, wanted: Mapping[str, str], names: Names) -> None:
    """Look for networks, by the words for each; in a thread.

    Raises:
        LabError: one is gone, or another one.
        libvirt.libvirtError: the daemon does not say.
    """
    for name, words in wanted.items():
        try:
            network = raw.networkLookupByName(name)
            labels = labels_of(fromstring(network.XMLDesc(0)))  # noqa: S314  as above
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                raise _broken(f"{words} is gone", None) from error
            raise
        if (labels.get(RUN), labels.get(LAB)) != (names.run, names.lab_id):
            raise _broken(f"{words} is another one now", None)


def _broken(what: str, node: str | None) -> LabError:
    return LabError(
        f"the kept lab is not whole any more: {what}", node=node, step=_STEP, resolution=_WAY_OUT
    )
