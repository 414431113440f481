"""From a node's plan to what its init is told, and what this backend cannot run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.backends.local import internet
from pytest_benchscale.backends.names import NO_RESOLVER
from pytest_benchscale.backends.volumes import volumes_of
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.topology import images as catalogue
from pytest_benchscale.topology.model import NodeSpec, Topology

__all__ = ["HOST", "has_internet", "image_id", "node_spec", "reasons_against"]

HOST = "host"  # the image that is this machine's own root

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def reasons_against(topology: Topology, images: Mapping[str, str]) -> list[str]:
    """Return why the `local` backend cannot run a topology."""
    trouble = internet.missing_tool()
    reasons = [
        f"network {network.name!r}: {trouble}"
        for network in topology.networks
        if network.internet and trouble
    ]
    for node in topology.nodes:
        reasons.extend(f"node {node.name!r}: {reason}" for reason in _against(node, images))
    return reasons


def _against(node: NodeSpec, images: Mapping[str, str]) -> list[str]:
    reasons = [
        f"{key} needs a machine of its own"
        for key in ("cloud_init", "disk_gb", "existing", "ssh")
        if getattr(node, key) is not None
    ]
    if node.ports:
        reasons.append("ports: its nodes publish none; reach it from another node")
    try:
        catalogue.resolve(node.image, "local", images)
    except BenchscaleError as error:
        reasons.append(str(error))
    return reasons


def has_internet(plan: NodePlan, lab: LabPlan) -> bool:
    """Return whether one of the node's networks has internet access."""
    open_networks = {network.name for network in lab.networks if network.internet}
    return any(one.network in open_networks for one in plan.interfaces)


def node_spec(
    plan: NodePlan, lab: LabPlan, bridges: Mapping[str, int], links: Sequence[str], hosts: str
) -> dict[str, Any]:
    """Return everything that a node's init needs, as JSON types.

    `bridges` maps networks to interface indexes in the lab's namespace; `links` names the veth ends
    there, one for each of the plan's interfaces; `hosts` is the text of /etc/hosts.

    Raises:
        LabError: the image or a volume's source is not there.
    """
    outside = has_internet(plan, lab)
    path = _PATH
    if plan.image == HOST:
        # Last, so that the machine's own programs come first: where Python lives in a virtual
        # environment or a home directory, `python3` is found all the same.
        path += ":" + str(Path(sys.executable).parent)
    return {
        "name": plan.name,
        "hostname": plan.hostname,
        "etc": {
            "hostname": f"{plan.hostname}\n",
            "hosts": hosts,
            "resolv.conf": f"nameserver {internet.NAME_SERVER}\n" if outside else NO_RESOLVER,
        },
        "image": _image_path(plan, lab),
        "env": {"PATH": path, "LANG": "C.UTF-8", **plan.env},
        "command": list(plan.spec.command or ()),
        "memory_mb": plan.spec.memory_mb,
        "vcpus": plan.spec.vcpus,
        "forwards": plan.forwards,
        "links": [
            {
                "name": link,
                "bridge": bridges[one.network],
                "device": one.device,
                "mac": one.mac,
                "address": str(one.address),
            }
            for link, one in zip(links, plan.interfaces, strict=True)
        ],
        "routes": [
            {"destination": str(route.destination), "via": str(route.via)}
            for route in plan.routes
            # The way out is a device of its own, not a gateway on the network.
            if not (outside and route.destination.prefixlen == 0)
        ],
        "volumes": [
            {"source": str(one.source), "target": one.target, "ro": one.is_read_only}
            for one in volumes_of(plan, lab)
        ],
    }


def image_id(plan: NodePlan, lab: LabPlan) -> str:
    """Return what changes when a root file system is another one; its files are not looked at."""
    path = _image_path(plan, lab)
    status = os.stat(path)
    if path == "/":
        # What runs here changes with every package: that is what one wants of this image.
        return f"host {status.st_dev}:{status.st_ino}"
    return f"{path} {status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _image_path(plan: NodePlan, lab: LabPlan) -> str:
    if plan.image == HOST:
        return "/"
    path = Path(os.path.realpath(lab.directory / plan.image))
    if path.exists():
        return str(path)
    raise LabError(
        f"node {plan.name!r}: there is no root file system at {path}",
        node=plan.name,
        step="image",
        resolution=f"give a directory or a tarball, or {HOST!r} for this machine's own root",
    )
