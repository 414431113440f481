"""Where a domain that somebody else made can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import libvirt

from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["addresses", "in_arp_table"]

_SOURCES = (
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
)
_ARP_TABLE = Path("/proc/net/arp")
_COMPLETE = 0x2  # linux/if_arp.h


def addresses(connection: Connection, domain: Any) -> list[IpAddress]:
    """Return the addresses of a domain, IPv4 first, of the first source that knows some.

    These are leases, its guest agent and libvirt's own look at the ARP table, which is blind for what
    has been silent for half a minute; then what its networks reserve for it, and that table itself.

    Raises:
        libvirt.libvirtError: the daemon does not say what interfaces it has.
    """
    for source in _SOURCES:
        with suppress(libvirt.libvirtError):  # no agent, or no such source on that kind of network
            if found := _usable(_told(domain.interfaceAddresses(source, 0))):
                return found
    root = fromstring(domain.XMLDesc(0))  # noqa: S314  the daemon's own words
    links = [
        (mac.get("address", "").lower(), "" if source is None else source.get("network", ""))
        for interface in root.iterfind("devices/interface")
        if (mac := interface.find("mac")) is not None
        for source in (interface.find("source"),)
    ]
    if found := _usable(address for link in links for address in _reserved(connection, *link)):
        return found
    if not connection.is_local or not _ARP_TABLE.exists():
        return []
    return _usable(in_arp_table(_ARP_TABLE.read_text(), {mac for mac, _ in links}))


def in_arp_table(table: str, macs: set[str]) -> Iterator[IpAddress]:
    """Yield the addresses of these MACs out of "IP-address HW-type Flags HW-address Mask Device"."""
    for line in table.splitlines()[1:]:
        address, _, flags, mac, *_ = line.split()
        if mac.lower() in macs and int(flags, 16) & _COMPLETE:
            yield ip_address(address)


def _told(interfaces: Any) -> Iterator[IpAddress]:
    for interface in interfaces.values():
        for entry in interface["addrs"] or ():
            yield ip_address(entry["addr"])


def _reserved(connection: Connection, mac: str, network: str) -> Iterator[IpAddress]:
    if not network:
        return
    with suppress(libvirt.libvirtError):  # it was removed meanwhile
        described = connection.raw.networkLookupByName(network).XMLDesc(0)
        for host in fromstring(described).iterfind("ip/dhcp/host"):  # noqa: S314  as above
            if host.get("mac", "").lower() == mac and host.get("ip"):
                yield ip_address(host.get("ip", ""))


def _usable(found: Iterator[IpAddress]) -> list[IpAddress]:
    usable = [one for one in found if not (one.is_loopback or one.is_link_local)]
    return sorted(dict.fromkeys(usable), key=lambda one: one.version)
