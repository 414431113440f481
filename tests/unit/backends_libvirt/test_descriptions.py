"""What libvirt is told of guests and networks, and the names that everything has."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.topology.model import NodeSpec

pytest.importorskip("libvirt")

from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, Link, domain_xml
from pytest_benchscale.backends.libvirt.naming import Names, lab_of_volume, mac_of_management
from pytest_benchscale.backends.libvirt.network_xml import (
    BridgeNetwork,
    Reservation,
    labels_of,
    network_xml,
)

LABELS = {"benchscale.run": "ab12", "benchscale.lab": "0123abcd", "odd": 'a "quoted" <one> & é'}
UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"


def spec(**changes: object) -> DomainSpec:
    values: dict[str, object] = {
        "name": "benchscale-0123abcd-alpha-0",
        "accelerator": "qemu",
        "memory_mb": 512,
        "vcpus": 2,
        "disks": [Disk("/pool/disk", "qcow2"), Disk("/pool/seed", "raw", read_only=True)],
        "links": [Link("management", "52:54:00:00:00:01", "bt0", isolated=True)],
        "console": "/pool/console & more",
        "labels": LABELS,
    }
    return DomainSpec(**{**values, **changes})  # type: ignore[arg-type]  # made of parts


def network(**changes: object) -> Element:
    values: dict[str, object] = {
        "name": "benchscale-0123abcd-lan-0",
        "bridge": "bn0123abcd-0",
        "mac": "52:54:00:00:00:02",
        "subnet": ip_network("10.1.0.0/24"),
        "host": ip_address("10.1.0.1"),
        "nat": False,
        "labels": LABELS,
        "reservations": [Reservation("02:00:00:00:00:01", ip_address("10.1.0.2"), "alpha")],
    }
    return fromstring(network_xml(BridgeNetwork(**{**values, **changes})))  # type: ignore[arg-type]


def plan(*names: str) -> LabPlan:
    nodes = tuple(
        NodePlan(name, name, "image", (), (), {}, forwards=False, env={}, spec=NodeSpec(name=name))
        for name in names
    )
    return LabPlan("0123abcd", "lab", Path("/"), (), nodes, labels={"benchscale.run": "ab12"})


def test_a_guest_has_its_disks_in_order_and_its_seed_read_only() -> None:
    root = fromstring(domain_xml(spec(), UUID))
    disks = root.findall("devices/disk")
    assert [disk.find("source").get("file") for disk in disks] == ["/pool/disk", "/pool/seed"]  # type: ignore[union-attr]
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]


def test_a_guest_keeps_its_mac_tap_and_isolation() -> None:
    link = fromstring(domain_xml(spec(), UUID)).find("devices/interface")
    assert link is not None
    attributes = [
        (child.tag, child.attrib) for child in link if child.tag in {"mac", "target", "port"}
    ]
    assert attributes == [
        ("mac", {"address": "52:54:00:00:00:01"}),
        ("target", {"dev": "bt0"}),
        ("port", {"isolated": "yes"}),
    ]


def test_a_guests_console_goes_on_in_its_file_whatever_its_name() -> None:
    source = fromstring(domain_xml(spec(), UUID)).find("devices/serial/source")
    assert source is not None
    assert source.attrib == {"path": "/pool/console & more", "append": "on"}


def test_a_guest_is_of_the_run_that_was_asked_for() -> None:
    assert fromstring(domain_xml(spec(), UUID)).findtext("uuid") == UUID


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host-passthrough"), ("qemu", "maximum")])
def test_a_guest_has_all_of_the_processor_that_there_is(accelerator: str, cpu: str) -> None:
    root = fromstring(domain_xml(spec(accelerator=accelerator), UUID))
    mode = root.find("cpu")
    assert mode is not None
    assert (root.get("type"), mode.get("mode")) == (accelerator, cpu)


def test_a_guest_may_be_started_with_a_kernel_of_its_own() -> None:
    root = fromstring(domain_xml(spec(kernel="/k", initramfs="/i", command_line="a=b"), UUID))
    assert [root.findtext(f"os/{tag}") for tag in ("kernel", "initrd", "cmdline")] == [
        *("/k", "/i", "a=b")
    ]
    assert fromstring(domain_xml(spec(), UUID)).find("os/kernel") is None


def test_labels_come_back_as_they_went_in() -> None:
    assert labels_of(fromstring(domain_xml(spec(), UUID))) == LABELS
    assert labels_of(network()) == LABELS
    assert labels_of(fromstring("<domain><name>of somebody</name></domain>")) == {}


def test_an_isolated_network_leads_nowhere_and_reserves_addresses() -> None:
    root = network()
    assert root.find("forward") is None
    address, host = root.find("ip"), root.find("ip/dhcp/host")
    assert address is not None
    assert host is not None
    assert address.attrib == {"family": "ipv4", "address": "10.1.0.1", "prefix": "24"}
    assert host.attrib == {"mac": "02:00:00:00:00:01", "ip": "10.1.0.2", "name": "alpha"}
    assert root.findtext("dns/host/hostname") == "alpha"


def test_a_network_with_internet_access_is_translated() -> None:
    forward = network(nat=True).find("forward")
    assert forward is not None
    assert forward.get("mode") == "nat"


def test_a_network_whose_gateway_is_a_node_only_carries_frames() -> None:
    root = network(host=None)
    assert root.find("ip") is None
    assert root.find("dns") is None
    assert root.get("ipv6") == "yes"


def test_an_ipv6_network_has_no_reservations_by_mac() -> None:
    reservation = Reservation("02:00:00:00:00:01", ip_address("fd00::2"), "alpha")
    root = network(
        subnet=ip_network("fd00::/64"),
        host=ip_address("fd00::1"),
        nat=True,
        reservations=[reservation],
    )
    assert root.find("ip/dhcp") is None
    assert root.find("forward/nat") is not None


def test_a_reservation_without_a_name_is_not_in_the_dns() -> None:
    root = network(reservations=[Reservation("02:00:00:00:00:01", ip_address("10.1.0.2"))])
    host = root.find("ip/dhcp/host")
    assert host is not None
    assert "name" not in host.attrib
    assert root.find("dns/host") is None


def test_devices_of_large_labs_have_names_that_linux_takes() -> None:
    names = Names.of(plan(*(f"node{number}" for number in range(1000))))
    taps = {names.tap(f"node{number}", 12) for number in range(1000)}
    assert len(taps) == 1000
    assert max(map(len, [*taps, names.management_bridge])) <= 15


def test_names_of_files_hold_what_files_can_hold() -> None:
    names = Names.of(plan("x" * 300, "x" * 299 + "y", "a.b_c"))
    for node in names.nodes:
        for name in (names.volume(node, "disk"), names.domain(node)):
            assert len(name) < 150
            assert "/" not in name
            assert name.isascii()
    assert len({names.volume(node, "disk") for node in names.nodes}) == 3


def test_a_volume_tells_its_run_and_its_lab() -> None:
    name = Names.of(plan("alpha")).volume("alpha", "disk")
    assert lab_of_volume(name, "ab12") == "0123abcd"
    assert lab_of_volume(name, "ab13") is None
    for other in ("benchscale-base-00ff", "vm.qcow2", "benchscale-ab12"):
        assert lab_of_volume(other, "ab12") is None


def test_a_guest_that_goes_on_is_told_where_from_and_that_it_is_another_one() -> None:
    boots, goes_on = (
        fromstring(domain_xml(spec(**more), UUID)) for more in ({}, {"snapshot": "ready"})
    )
    arguments = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"
    assert boots.find(arguments) is None
    told = goes_on.find(arguments)
    assert told is not None
    assert [argument.get("value") for argument in told] == ["-loadvm", "ready"]
    assert boots.findtext("genid") == goes_on.findtext("genid") == UUID


def test_management_macs_differ_and_stay() -> None:
    macs = [mac_of_management("a"), mac_of_management("b")]
    assert len(set(macs)) == 2
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)
    assert mac_of_management("a") == macs[0]
