"""What libvirt is told of a guest, as XML (libvirt.org/formatdomain.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from pytest_benchscale.backends.libvirt.acceleration import Accelerator
from pytest_benchscale.backends.libvirt.network_xml import add_labels

__all__ = ["Disk", "DomainSpec", "Link", "domain_xml"]


_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


class Disk(NamedTuple):
    """A file on the daemon's machine that the guest sees as a disk."""

    path: str
    format: str
    read_only: bool = False


class Link(NamedTuple):
    """An interface: the libvirt network it is on, its MAC, and the name of the host's end."""

    network: str
    mac: str
    tap: str
    isolated: bool = False  # from others like it on that network


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """A guest.

    `console` is the file on the daemon's machine that its serial console is written to. With `snapshot` the
    guest does not boot but goes on from the snapshot of that name in its first disk.
    """

    name: str
    accelerator: Accelerator
    memory_mb: int
    vcpus: int
    disks: Sequence[Disk]
    links: Sequence[Link]
    console: str
    labels: Mapping[str, str]
    kernel: str | None = None
    initramfs: str | None = None
    command_line: str | None = None
    snapshot: str | None = None


def domain_xml(spec: DomainSpec, uuid: str) -> str:
    """Return a guest's description: virtio for everything, and no more devices than it needs.

    `uuid` is that of this run, also by the device that tells a guest that it is not the only one that went on
    from its state: Linux then draws new random numbers.
    """
    root = Element("domain", {"type": spec.accelerator})
    _text(root, "name", spec.name)
    _text(root, "uuid", uuid)
    _text(root, "genid", uuid)
    add_labels(root, spec.labels)
    _text(root, "memory", str(spec.memory_mb), unit="MiB")
    _text(root, "vcpu", str(spec.vcpus))
    _boot(root, spec)
    features = SubElement(root, "features")
    for feature in ("acpi", "apic"):  # without ACPI there is no button to ask for a shutdown
        SubElement(features, feature)
    SubElement(
        root, "cpu", {"mode": "host-passthrough" if spec.accelerator == "kvm" else "maximum"}
    )
    clock = SubElement(root, "clock", {"offset": "utc"})
    if spec.accelerator == "kvm":
        SubElement(clock, "timer", {"name": "hpet", "present": "no"})
    for happening, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(root, f"on_{happening}", action)
    devices = SubElement(root, "devices")
    for number, disk in enumerate(spec.disks):
        _disk(devices, number, disk)
    for link in spec.links:
        _link(devices, link)
    _small_devices(devices, spec.console)
    if spec.snapshot is not None:
        # libvirt's own way, `revert`, needs a domain that outlives us.
        arguments = SubElement(root, f"{{{_QEMU}}}commandline")
        for argument in ("-loadvm", spec.snapshot):
            SubElement(arguments, f"{{{_QEMU}}}arg", {"value": argument})
    return tostring(root, encoding="unicode")


def _boot(root: Element, spec: DomainSpec) -> None:
    boot = SubElement(root, "os")
    _text(boot, "type", "hvm")
    for tag, value in (
        ("kernel", spec.kernel),
        ("initrd", spec.initramfs),
        ("cmdline", spec.command_line),
    ):
        if value is not None:
            _text(boot, tag, value)
    SubElement(boot, "boot", {"dev": "hd"})


def _disk(devices: Element, number: int, disk: Disk) -> None:
    element = SubElement(devices, "disk", {"type": "file", "device": "disk"})
    # What a node writes is thrown away in the end: its fsync need not wait for our disk.
    driver = {"name": "qemu", "type": disk.format, "cache": "unsafe", "discard": "unmap"}
    SubElement(element, "driver", driver)
    SubElement(element, "source", {"file": disk.path})
    SubElement(element, "target", {"dev": f"vd{chr(ord('a') + number)}", "bus": "virtio"})
    if disk.read_only:
        SubElement(element, "readonly")


def _link(devices: Element, link: Link) -> None:
    element = SubElement(devices, "interface", {"type": "network"})
    SubElement(element, "mac", {"address": link.mac})
    SubElement(element, "source", {"network": link.network})
    SubElement(element, "target", {"dev": link.tap})
    SubElement(element, "model", {"type": "virtio"})
    SubElement(element, "rom", {"enabled": "no"})  # nobody boots from the network
    if link.isolated:
        SubElement(element, "port", {"isolated": "yes"})


def _small_devices(devices: Element, console: str) -> None:
    serial = SubElement(devices, "serial", {"type": "file"})
    SubElement(serial, "source", {"path": console, "append": "on"})
    SubElement(serial, "target", {"port": "0"})
    channel = SubElement(devices, "channel", {"type": "unix"})
    SubElement(channel, "target", {"type": "virtio", "name": "org.qemu.guest_agent.0"})
    random = SubElement(devices, "rng", {"model": "virtio"})
    _text(random, "backend", "/dev/urandom", model="random")
    SubElement(devices, "memballoon", {"model": "none"})
    SubElement(devices, "controller", {"type": "usb", "model": "none"})
    SubElement(devices, "panic", {"model": "isa"})


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text
