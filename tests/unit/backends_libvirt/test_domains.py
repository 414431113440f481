"""What is known of a domain, refusals of daemons in words, and what a daemon can run at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_benchscale.backends.base import NodePlan, NodeStatus
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.model import NodeSpec

pytest.importorskip("libvirt")

import libvirt

from pytest_benchscale.backends.libvirt import acceleration, connection, direct_boot, whereabouts
from pytest_benchscale.backends.libvirt.ability import notes_on, why_not
from pytest_benchscale.backends.libvirt.acceleration import Acceleration
from pytest_benchscale.backends.libvirt.events import DomainEvent
from pytest_benchscale.backends.libvirt.node import LibvirtNode

SYSTEM = "qemu:///system"


def node() -> LibvirtNode:
    spec = NodeSpec(name="alpha")
    plan = NodePlan("alpha", "alpha", "image", (), (), {}, forwards=False, env={}, spec=spec)
    return LibvirtNode(plan, "benchscale-0-alpha-0")


def event(run: str, *, paused: bool | None = None, end: str | None = None) -> DomainEvent:
    return DomainEvent("benchscale-0-alpha-0", run, paused, end)


async def test_a_domain_that_ends_by_itself_is_dead_and_says_why() -> None:
    alpha = node()
    alpha.happened(event(alpha.begins(), end="it crashed"))
    assert (alpha.status, alpha.info().reason) == (NodeStatus.DEAD, "it crashed")
    assert await alpha.death() == "it crashed"


async def test_the_end_of_an_earlier_run_is_not_that_of_this_one() -> None:
    alpha = node()
    earlier = alpha.begins()
    alpha.status = NodeStatus.STOPPED
    alpha.begins()
    alpha.happened(event(earlier, end="it was shut down"))
    assert alpha.status is NodeStatus.RUNNING
    assert not alpha.ended.is_set()


async def test_an_end_that_was_asked_for_is_no_death() -> None:
    alpha = node()
    run = alpha.begins()
    alpha.status = NodeStatus.STOPPED
    alpha.happened(event(run, end="it was shut down"))
    assert alpha.status is NodeStatus.STOPPED
    assert alpha.ended.is_set()


async def test_what_others_do_to_a_domain_is_noticed() -> None:
    alpha = node()
    run = alpha.begins()
    alpha.happened(event(run, paused=True))
    assert alpha.info().status is NodeStatus.PAUSED
    alpha.happened(event(run, paused=False))
    assert alpha.info().status is NodeStatus.RUNNING


async def test_a_domain_that_we_stop_for_a_moment_runs_on_for_all_others() -> None:
    alpha = node()
    run = alpha.begins()
    alpha.stands_still_for_us = True
    for paused in (True, False):
        alpha.happened(event(run, paused=paused))
        assert alpha.info().status is NodeStatus.RUNNING
    alpha.happened(event(run, paused=True))  # by somebody else
    assert alpha.info().status is NodeStatus.PAUSED


@pytest.mark.parametrize(
    ("text", "reason", "resolution"),
    [
        (
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory",
            "there is no /var/run/libvirt/libvirt-sock",
            "apt-get install libvirt-daemon-system",
        ),
        (
            "Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused",
            "nobody listens at /run/libvirt/libvirt-sock",
            "systemctl start libvirtd",
        ),
        (
            "Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied",
            "this user may not use",
            "usermod -aG libvirt",
        ),
        (
            "authentication unavailable: no polkit agent available to authenticate action",
            "this user may not use",
            "usermod -aG libvirt",
        ),
        ("something quite new", "something quite new", "virsh -c qemu:///system version"),
    ],
)
def test_a_daemon_that_cannot_be_used_is_told_with_what_to_do(
    text: str, reason: str, resolution: str
) -> None:
    error = connection._explain("libvirt", SYSTEM, libvirt.libvirtError(text))
    assert reason in error.reason
    assert resolution in str(error.resolution)


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu:///session", True),
        ("qemu+unix:///system?socket=/x", True),
        ("qemu+ssh://host/system", False),
        ("qemu://host/system", False),
    ],
)
def test_a_uri_tells_whether_its_daemon_is_here(uri: str, local: bool) -> None:
    assert connection.is_local(uri) is local


def test_what_was_found_out_about_kvm_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "below" / "known.json"
    acceleration._write(path, Acceleration("qemu", "it got nowhere"))
    known = acceleration._read(path)
    assert known is not None
    assert (known.kind, known.in_words) == ("qemu", "emulation: it got nowhere")
    assert [file.name for file in path.parent.iterdir()] == ["known.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "kvm"}', "\0"])
def test_a_damaged_memory_of_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "known.json").write_text(text)
    assert acceleration._read(tmp_path / "known.json") is None


@pytest.mark.parametrize(
    ("nodes", "uri", "reason"),
    [
        ("[{name: a, image: ./a.qcow2, vcpus: 1.5}]", SYSTEM, "whole processors, not 1.5"),
        ("[{name: a, image: nginx}]", SYSTEM, "nginx"),
        ("[{name: a, image: ./a.qcow2, ssh: {port: 22}}]", SYSTEM, "ssh is for a machine"),
        ("[{name: a, existing: x, memory_mb: 5}]", SYSTEM, "memory_mb is for a machine that is"),
        ("[{name: a, image: ./a.qcow2}]", "qemu+tls://host/system", "out of our reach"),
        ("[{name: a, image: ./a.qcow2}]", "qemu+tls://host/system", "qemu+ssh://USER@HOST/system"),
        ("[{name: a, image: ./a.qcow2}]", "qemu+ssh://host/session", "may make no bridges"),
    ],
)
def test_what_machines_cannot_be_is_told(nodes: str, uri: str, reason: str) -> None:
    (told,) = why_not(load_text(f"nodes: {nodes}"), {}, uri)
    assert reason in told


def test_machines_that_are_there_can_be_elsewhere() -> None:
    there = load_text("nodes: [{name: a, existing: x, address: 192.0.2.7}]")
    assert list(why_not(there, {}, "qemu+ssh://host/system")) == []


def test_the_arp_table_tells_where_a_machine_was_seen() -> None:
    table = """\
IP address       HW type     Flags       HW address            Mask     Device
192.0.2.7        0x1         0x2         52:54:00:AA:00:01     *        virbr0
192.0.2.8        0x1         0x0         52:54:00:aa:00:01     *        virbr0
192.0.2.9        0x1         0x2         52:54:00:aa:00:02     *        virbr0
"""
    found = whereabouts.in_arp_table(table, {"52:54:00:aa:00:01"})
    assert [str(address) for address in found] == ["192.0.2.7"]


@pytest.mark.parametrize(
    ("reference", "image", "boot"),
    [
        ("./a.qcow2", "./a.qcow2", None),
        ("./a.qcow2#sha256=00", "./a.qcow2#sha256=00", None),
        ("./a#kernel=./k", "./a", ("./k", None, "root=/dev/vda1 console=ttyS0")),
        (
            "a/b#sha256=00#kernel=k&initrd=i",
            "a/b#sha256=00",
            ("k", "i", "root=/dev/vda1 console=ttyS0"),
        ),
        ("./a#kernel=k&initrd=i&append=a=b&c d", "./a", ("k", "i", "a=b&c d")),
        ("./a#kernel=k&append=quiet", "./a", ("k", None, "quiet")),
    ],
)
def test_an_image_says_what_it_is_started_with(
    reference: str, image: str, boot: tuple[str, str | None, str] | None
) -> None:
    expected = direct_boot.DirectBoot(*boot) if boot else None
    assert direct_boot.split(reference) == (image, expected)


@pytest.mark.parametrize("reference", ["./a#kernel=", "./a#kernel=k&initramfs=i"])
def test_an_image_that_says_it_wrongly_is_an_error(reference: str) -> None:
    with pytest.raises(LabError, match="does not say what it is started with"):
        direct_boot.split(reference)


def test_the_report_tells_of_emulation_and_of_ways_out() -> None:
    topology = load_text("nodes: [{name: a, cloud_init: {packages: [hello]}}]")
    notes = list(notes_on(topology, Acceleration("qemu", "no /dev/kvm")))
    assert [note.partition(":")[0] for note in notes] == [
        "guests run under emulation, which is slow",
        "a",
    ]
    assert list(notes_on(load_text("nodes: [{name: a}]"), Acceleration("kvm", ""))) == []
