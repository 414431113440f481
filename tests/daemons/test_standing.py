"""The machine that is there while a command runs is gone after it, and nobody else's is touched."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.daemons import virtual

pytestmark = pytest.mark.daemon("libvirt")

OF_SOMEBODY = """
<domain type="qemu"><name>{}</name><memory unit="MiB">64</memory><os><type>hvm</type></os></domain>
"""


@pytest.fixture
def libvirtd() -> Iterator[Any]:
    with virtual.connection(virtual.find()) as libvirtd:
        yield libvirtd


@pytest.fixture
def name() -> str:
    return f"standing-{uuid4().hex[:8]}"


def command(name: str, *command: str) -> list[str]:
    return [sys.executable, "-m", "tests.daemons", "with-machine", name, *command]


def made(libvirtd: Any, name: str) -> list[str]:
    """Return what the daemon has of that name."""
    things = {
        "domain": libvirtd.listAllDomains(),
        "network": libvirtd.listAllNetworks(),
        "pool": libvirtd.listAllStoragePools(),
    }
    return [kind for kind, all_ in things.items() if name in {one.name() for one in all_}]


def test_nothing_is_left_of_a_machine_whose_boot_is_interrupted(libvirtd: Any, name: str) -> None:
    with subprocess.Popen(command(name, "true"), stderr=subprocess.PIPE, text=True) as run:
        try:
            deadline = time.monotonic() + 120
            while "domain" not in made(libvirtd, name):
                assert run.poll() is None, run.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert made(libvirtd, name) == ["domain", "network", "pool"]
            run.terminate()
            assert run.communicate(timeout=60)[1] == ""
        finally:
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM
    assert made(libvirtd, name) == []


def test_a_machine_that_is_there_already_stays_as_it_is(libvirtd: Any, name: str) -> None:
    domain = libvirtd.defineXML(OF_SOMEBODY.format(name))
    try:
        before = domain.XMLDesc(0)
        run = subprocess.run(
            command(name, "echo", "ran"), capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stdout == "ran\n"
        assert f"there is a machine {name} already" in run.stderr
        assert domain.XMLDesc(0) == before
        assert not domain.isActive()
    finally:
        domain.undefine()


def test_a_command_that_is_not_there_is_told(name: str) -> None:
    environment = {virtual.VARIABLE: "qemu:///system?socket=/nonexistent/libvirt-sock"}
    run = subprocess.run(
        command(name, "/no/such/command"),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert run.returncode == 127
    assert f"no machine {name}: " in run.stderr
    assert "/no/such/command: No such file or directory" in run.stderr
