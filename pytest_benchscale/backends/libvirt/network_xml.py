"""What libvirt is told of a network, as XML (libvirt.org/formatnetwork.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from pytest_benchscale.backends.libvirt.naming import NAMESPACE
from pytest_benchscale.topology.addressing import IpAddress, IpNetwork

__all__ = ["BridgeNetwork", "Reservation", "add_labels", "labels_of", "network_xml"]


class Reservation(NamedTuple):
    """An address that is for one MAC, and the name that goes with it, if one does."""

    mac: str
    address: IpAddress
    name: str | None = None


@dataclass(frozen=True, slots=True)
class BridgeNetwork:
    """A network on a bridge of its own.

    `mac` and `host` are the daemon's machine's addresses there: without `host`, it only carries frames. `nat`
    leads out.
    """

    name: str
    bridge: str
    mac: str
    subnet: IpNetwork
    host: IpAddress | None
    nat: bool
    labels: Mapping[str, str]
    reservations: Sequence[Reservation] = ()


def network_xml(network: BridgeNetwork) -> str:
    """Return a network's description.

    Where the daemon's machine has an address, each reservation is one of its DHCP server's, and its name
    one of its name server's. IPv6 guests are not served by DHCP: libvirt knows no MACs there.
    """
    # Frames of IPv6 pass also where libvirt itself has no such address.
    root = Element("network", {"ipv6": "yes"})
    _text(root, "name", network.name)
    add_labels(root, network.labels)
    SubElement(root, "bridge", {"name": network.bridge, "stp": "off", "delay": "0"})
    SubElement(root, "mac", {"address": network.mac})
    if network.nat:
        forward = SubElement(root, "forward", {"mode": "nat"})
        if network.subnet.version == 6:
            SubElement(forward, "nat", {"ipv6": "yes"})
    if network.host is None:
        return tostring(root, encoding="unicode")
    dns = SubElement(root, "dns")
    for reservation in network.reservations:
        if reservation.name is None:
            continue
        host = SubElement(dns, "host", {"ip": str(reservation.address)})
        _text(host, "hostname", reservation.name)
    _address(root, network, network.host)
    return tostring(root, encoding="unicode")


def add_labels(root: Element, labels: Mapping[str, str]) -> None:
    """Add the labels of what a lab makes to a description."""
    metadata = SubElement(root, "metadata")
    lab = SubElement(metadata, f"{{{NAMESPACE}}}lab")
    for name, value in labels.items():
        SubElement(lab, f"{{{NAMESPACE}}}label", {"name": name, "value": value})


def labels_of(root: Element) -> dict[str, str]:
    """Return the labels in a description; none where it is not ours."""
    found = root.iterfind(f"metadata/{{{NAMESPACE}}}lab/{{{NAMESPACE}}}label")
    return {label.get("name", ""): label.get("value", "") for label in found}


def _address(root: Element, network: BridgeNetwork, host: IpAddress) -> None:
    family = "ipv4" if network.subnet.version == 4 else "ipv6"
    given = {"family": family, "address": str(host), "prefix": str(network.subnet.prefixlen)}
    ip = SubElement(root, "ip", given)
    if isinstance(network.subnet, IPv4Network) and network.reservations:
        dhcp = SubElement(ip, "dhcp")
        for reservation in network.reservations:
            leased = {"mac": reservation.mac, "ip": str(reservation.address)}
            name = {} if reservation.name is None else {"name": reservation.name}
            SubElement(dhcp, "host", leased | name)


def _text(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text
