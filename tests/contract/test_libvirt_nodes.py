"""What is special to virtual machines: cloud-init, disks, deaths, and machines that are there already.

One machine serves all tests.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import (
    BenchscaleError,
    LabError,
    MachineMissing,
    NodeDied,
    NotSupported,
)
from pytest_benchscale.topology.loader import load_text
from tests.daemons import virtual
from tests.daemons.guests import guest_path

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio]

MACHINE = f"""
network: {{name: lan}}
nodes:
  - name: machine
    image: {guest_path()}
    memory_mb: 512
    vcpus: 1
    disk_gb: 3
    cloud_init:
      user: iontest
      password: iontest
      runcmd: ["echo ran > /srv/ran"]
      write_files: [{{path: /srv/written, content: "of the file\\n", permissions: "0640"}}]
"""

EXISTING = """
nodes:
  - {{name: there, existing: {domain}, ssh: {{user: iontest, password: iontest, known_hosts: none}}}}
"""

KILLED_RUN = """
import sys, time
from pytest_benchscale import Lab
with Lab.open_sync(sys.argv[1], backend="libvirt"):
    print("in use", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Bring up one machine."""
    with Lab.open_sync(load_text(MACHINE), backend="libvirt") as lab:
        yield lab


@pytest.fixture
def libvirtd() -> Iterator[Any]:
    """Look at the daemon by other means than ours."""
    with virtual.connection(virtual.find()) as connection:
        yield connection


def domain_of(libvirtd: Any, lab: Lab) -> Any:
    (domain,) = [one for one in libvirtd.listAllDomains() if str(lab.lab_id) in one.name()]
    return domain


async def test_cloud_init_did_what_the_file_says(lab: Lab) -> None:
    machine = lab["machine"]
    assert await machine.read_text("/srv/ran") == "ran\n"
    assert await machine.read_text("/srv/written") == "of the file\n"
    script = "stat -c %a /srv/written; id -un iontest; sudo -l -U iontest | grep -c NOPASSWD"
    assert (await machine.exec(script, check=True)).stdout == "640\niontest\n1\n"


async def test_memory_processors_and_disk_are_as_declared(lab: Lab) -> None:
    machine = lab["machine"]
    memory = await machine.exec("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo", check=True)
    assert 400 < int(memory.stdout) <= 512
    assert (await machine.exec("nproc", check=True)).stdout == "1\n"
    disk = await machine.exec("df -BM --output=size / | tail -n1", check=True)
    assert 2700 < int(disk.stdout.strip().removesuffix("M")) <= 3072


async def test_the_log_is_the_serial_console_from_its_first_line(lab: Lab) -> None:
    log = await lab["machine"].logs()
    assert "Linux version" in log or "cloud-init" in log
    assert "\x1b" not in log
    assert "\r" not in log


async def test_links_are_devices_of_this_machine(lab: Lab, libvirtd: Any) -> None:
    described = domain_of(libvirtd, lab).XMLDesc(0)
    links = await lab._context.backend.links("machine")
    assert list(links) == ["lan"]
    assert f"dev='{links['lan']}'" in described


async def test_an_existing_machine_is_used_and_left_as_it_was(lab: Lab, libvirtd: Any) -> None:
    domain = domain_of(libvirtd, lab)
    before = (domain.XMLDesc(0), domain.UUIDString(), domain.state())
    networks = {network.name() for network in libvirtd.listAllNetworks()}
    text = EXISTING.format(domain=domain.name())
    async with Lab.open(load_text(text), backend="libvirt") as existing:
        assert {network.name() for network in libvirtd.listAllNetworks()} == networks
        there = existing["there"]
        assert there.status is NodeStatus.RUNNING
        assert (await there.exec("id -un; uname -n", check=True)).stdout == "iontest\nmachine\n"
        assert (await there.exec(["which", "python3"], check=True)).stdout == "/usr/bin/python3\n"
        for refused in (there.stop(), there.kill(), there.pause(), there.restart()):
            with pytest.raises(NotSupported):
                await refused
    assert (domain.XMLDesc(0), domain.UUIDString(), domain.state()) == before
    assert (await lab["machine"].exec("true")).ok


async def test_a_lab_that_fails_leaves_an_existing_machine_as_it_was(
    lab: Lab, libvirtd: Any
) -> None:
    domain = domain_of(libvirtd, lab)
    text = EXISTING.format(domain=domain.name()).replace("existing:", "setup: [exit 7], existing:")
    with pytest.raises(LabError, match="exit code 7"):
        async with Lab.open(load_text(text), backend="libvirt"):
            pytest.fail("the lab came up")
    assert domain.isActive()


async def test_a_wrong_password_for_an_existing_machine_is_told(lab: Lab, libvirtd: Any) -> None:
    domain = domain_of(libvirtd, lab).name()
    text = EXISTING.format(domain=domain).replace("password: iontest", "password: wrong")
    with pytest.raises(LabError, match="refused the login") as caught:
        async with Lab.open(load_text(text), backend="libvirt"):
            pytest.fail("the lab came up")
    assert caught.value.node == "there"


async def test_an_existing_machine_that_is_missing_is_told_with_what_there_is(
    lab: Lab, libvirtd: Any
) -> None:
    name = domain_of(libvirtd, lab).name()
    with pytest.raises(MachineMissing, match="there is no machine") as caught:
        async with Lab.open(load_text(EXISTING.format(domain=f"{name}x")), backend="libvirt"):
            pytest.fail("the lab came up")
    assert f"did you mean {name!r}" in str(caught.value)


async def test_an_existing_machine_that_is_paused_is_not_resumed(lab: Lab, libvirtd: Any) -> None:
    domain = domain_of(libvirtd, lab)
    await lab["machine"].pause()
    try:
        with pytest.raises(LabError, match="is paused"):
            async with Lab.open(
                load_text(EXISTING.format(domain=domain.name())), backend="libvirt"
            ):
                pytest.fail("the lab came up")
        assert lab["machine"].status is NodeStatus.PAUSED
    finally:
        await lab["machine"].resume()


async def test_an_existing_machine_outlives_a_killed_run_as_it_was(
    lab: Lab, libvirtd: Any, tmp_path: Path
) -> None:
    domain = domain_of(libvirtd, lab)
    before = (domain.XMLDesc(0), domain.UUIDString(), domain.state())
    (tmp_path / "there.yaml").write_text(EXISTING.format(domain=domain.name()))
    argv = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "there.yaml")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert await asyncio.to_thread(run.stdout.readline) == "in use\n"
        run.kill()
    assert (domain.XMLDesc(0), domain.UUIDString(), domain.state()) == before
    async with Lab.open(tmp_path / "there.yaml", backend="libvirt") as again:  # it is not locked
        assert (await again["there"].exec("true")).ok


async def test_a_domain_that_ends_is_told_within_two_seconds_with_its_console(
    lab: Lab, libvirtd: Any
) -> None:
    machine = lab["machine"]
    command = asyncio.create_task(machine.exec("sleep 1000"))
    wait = asyncio.create_task(machine.wait_for_file("/no/such/file", timeout=60))
    await machine.exec("until pgrep -x sleep; do sleep 0.1; done", check=True)
    try:
        await asyncio.to_thread(domain_of(libvirtd, lab).destroy)
        ended = time.monotonic()
        for task in (command, wait):
            with pytest.raises(NodeDied, match="ended by somebody") as caught:
                await task
            assert "cloud-init" in str(caught.value) or "login:" in str(caught.value)
        assert time.monotonic() - ended < 2
        assert machine.status is NodeStatus.DEAD
        with pytest.raises(BenchscaleError, match="died"):
            await machine.exec("true")
    finally:
        await machine.start()
    assert (await machine.exec("true")).ok
