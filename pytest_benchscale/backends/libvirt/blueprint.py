"""What a guest of a lab is made of: its devices, and what cloud-init is told."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.backends.libvirt.ability import needs_way_out
from pytest_benchscale.backends.libvirt.acceleration import Accelerator
from pytest_benchscale.backends.libvirt.cloud_init import HostKey, Management, documents
from pytest_benchscale.backends.libvirt.direct_boot import Kernel
from pytest_benchscale.backends.libvirt.domain_xml import DomainSpec, Link
from pytest_benchscale.backends.libvirt.naming import LAB, NODE, Names, mac_of_management
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["Blueprints", "way_out"]

_MEMORY_MB, _VCPUS = 1024, 1  # of a node that asks for nothing


class Blueprints:
    """Draws the guests of one lab, once its management network has its addresses."""

    def __init__(
        self, plan: LabPlan, names: Names, networks: Networks, accelerator: Accelerator
    ) -> None:
        self._plan = plan
        self._names = names
        self._networks = networks
        self._accelerator = accelerator

    def domain(self, node: NodePlan, kernel: Kernel | None) -> DomainSpec:
        """Return a guest that has no disks and no console yet."""
        names = self._names
        management = Link(
            names.management, mac_of_management(node.name), names.tap(node.name, 0), isolated=True
        )
        links = [
            Link(names.network(one.network), one.mac, names.tap(node.name, number))
            for number, one in enumerate(node.interfaces, 1)
        ]
        return DomainSpec(
            name=names.domain(node.name),
            accelerator=self._accelerator,
            memory_mb=node.spec.memory_mb or _MEMORY_MB,
            vcpus=int(node.spec.vcpus or _VCPUS),
            disks=(),
            links=(management, *links),
            console="",
            labels={
                **self._plan.labels,
                LAB: self._plan.lab_id,
                NODE: node.name,
            },
            kernel=None if kernel is None else kernel.kernel,
            initramfs=None if kernel is None else kernel.initramfs,
            command_line=None if kernel is None else kernel.command_line,
        )

    def documents(
        self, node: NodePlan, *, login: str = "", host_key: HostKey | None = None
    ) -> Mapping[str, bytes]:
        """Return the files of a guest's seed; without keys, what is the same in every lab."""
        networks = self._networks
        out = way_out(self._plan, node)
        management = Management(
            mac_of_management(node.name),
            networks.management[node.name],
            networks.management_host if out else None,
            out,
        )
        instance = f"{self._plan.lab_id}-{self._names.nodes[node.name]}" if host_key else ""
        return documents(
            node,
            instance_id=instance,
            session_key=login,
            management=management,
            host_key=host_key,
            nameservers=self._nameservers(node),
        )

    def _nameservers(self, node: NodePlan) -> list[IpAddress]:
        host = self._networks.management_host
        if way_out(self._plan, node) and host is not None:
            return [host]
        own = {interface.network for interface in node.interfaces}
        return [
            network.gateway
            for network in self._plan.networks
            if network.internet and network.name in own and network.gateway is not None
        ]


def way_out(plan: LabPlan, node: NodePlan) -> bool:
    """Return whether a guest reaches the outside through its management interface."""
    outside = {network.name for network in plan.networks if network.internet}
    return needs_way_out(node.spec, outside)
