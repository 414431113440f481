"""What is special to virtual machines: cloud-init, disks, deaths, and machines that are there already.

One machine serves all tests: it boots once, and goes on from its kept state when it is wanted again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from pytest_benchscale.lab.options import LabOptions
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


BROKEN = """
<volume>
  <name>benchscale-prepared-broken</name><capacity>65536</capacity><target><format type="raw"/></target>
</volume>
"""

TELL = "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /etc/machine-id; date +%s"


@dataclass
class Run:
    """What a machine told right after it was ready, and what was said on the way there."""

    progress: list[str]
    boot: str
    random: str
    machine_id: str
    clock_is_off: float  # seconds

    @classmethod
    @contextmanager
    def of(cls, text: str) -> Iterator[tuple[Run, Lab]]:
        """Bring a machine up."""
        progress: list[str] = []
        options = LabOptions(progress=progress.append)
        with Lab.open_sync(load_text(text), backend="libvirt", options=options) as lab:
            told = lab.sync["machine"].exec(TELL, check=True).stdout
            boot, random, machine_id, clock = told.split()
            yield cls(progress, boot, random, machine_id, abs(time.time() - float(clock))), lab

    @property
    def went_on(self) -> bool:
        """Whether it did not boot."""
        went_on = any("goes on from its prepared state" in line for line in self.progress)
        assert went_on != any(line.endswith(": boots") for line in self.progress)
        return went_on


@pytest.fixture(scope="module")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have no kept states at first, and leave none."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield cache
    notes = [json.loads(path.read_text()) for path in cache.glob("*/prepared/*/state.json")]
    with virtual.connection(virtual.find()) as connection:
        for pool in connection.listAllStoragePools():
            for volume in pool.listAllVolumes():
                if volume.name() in {note["volume"] for note in notes}:
                    volume.delete(0)


@pytest.fixture(scope="module")
def first_run(empty_cache: Path) -> Run:
    """Boot the machine, use it, and remove it."""
    with Run.of(MACHINE) as (run, lab):
        lab.sync["machine"].write_text("/srv/later", "not there when it was ready")
    return run


@pytest.fixture
def libvirtd() -> Iterator[Any]:
    """Look at the daemon by other means than ours."""
    with virtual.connection(virtual.find()) as connection:
        yield connection


async def until_it_begins(text: str, *, prepared: bool = True) -> list[str]:
    """Return what is said until a machine boots, or goes on from a kept state, and leave it at that."""
    progress: list[str] = []
    begun = asyncio.Event()

    def heard(line: str) -> None:
        progress.append(line)
        if line.endswith(": boots") or "is ready" in line:
            loop.call_soon_threadsafe(begun.set)

    async def bring_up() -> None:
        options = LabOptions(progress=heard, prepared=prepared)
        async with Lab.open(load_text(text), backend="libvirt", options=options):
            pass

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(bring_up())
    try:
        async with asyncio.timeout(60):
            await begun.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return progress


def pool_of(libvirtd: Any, volume: str) -> Any:
    (pool,) = [
        pool
        for pool in libvirtd.listAllStoragePools()
        if volume in {one.name() for one in pool.listAllVolumes()}
    ]
    return pool


def domain_of(libvirtd: Any, lab: Lab) -> Any:
    (domain,) = [one for one in libvirtd.listAllDomains() if str(lab.lab_id) in one.name()]
    return domain


class TestPrepared:
    """No machine is up at the beginning of any of these, so that each has the same network."""

    async def test_a_machine_goes_on_from_the_state_in_which_it_became_ready(
        self, first_run: Run
    ) -> None:
        with Run.of(MACHINE) as (run, lab):
            machine = lab["machine"]
            assert run.went_on
            assert not first_run.went_on
            assert (run.boot, run.machine_id) == (first_run.boot, first_run.machine_id)
            assert not (await machine.exec("test -e /srv/later")).ok
            assert "cloud-init" in await machine.logs()  # of its boot

    async def test_machines_that_go_on_know_the_time_and_draw_random_numbers_of_their_own(
        self, first_run: Run, empty_cache: Path
    ) -> None:
        (note,) = empty_cache.glob("*/prepared/*/state.json")
        await asyncio.sleep(note.stat().st_mtime + 20 - time.time())  # for their clocks to be wrong
        runs = []
        for _ in range(2):
            with Run.of(MACHINE) as (run, _):
                runs.append(run)
        assert max(run.clock_is_off for run in runs) < 10  # to ask takes some of it
        assert len({first_run.random, *(run.random for run in runs)}) == 3

    @pytest.mark.parametrize(
        ("old", "new", "prepared"),
        [
            ("echo ran", "echo ran again", True),
            ("memory_mb: 512", "memory_mb: 500", True),
            ("disk_gb: 3", "disk_gb: 4", True),
            ("name: lan}", "name: lan, subnet: 10.201.7.0/24}", True),
            ("", "", False),
        ],
        ids=["cloud-init", "memory", "disk", "addresses", "switched off"],
    )
    async def test_a_machine_that_is_not_the_same_boots(
        self, first_run: Run, old: str, new: str, prepared: bool
    ) -> None:
        progress = await until_it_begins(MACHINE.replace(old, new, 1), prepared=prepared)
        assert any(line.endswith(": boots") for line in progress), progress
        assert not any("prepared" in line for line in progress)

    async def test_a_kept_state_that_is_broken_is_told_and_removed(
        self, first_run: Run, empty_cache: Path, libvirtd: Any, tmp_path: Path
    ) -> None:
        (place,) = (note.parent for note in empty_cache.glob("*/prepared/*/state.json"))
        shutil.copytree(place, tmp_path / "kept")
        note = json.loads((place / "state.json").read_text())
        pool = pool_of(libvirtd, note["volume"])
        broken = pool.createXML(BROKEN, 0)
        (place / "state.json").write_text(json.dumps(note | {"volume": broken.name()}))
        try:
            progress = await until_it_begins(MACHINE)
            assert any("does not go on from its prepared state" in line for line in progress)
            assert progress[-1].endswith(": boots")
            assert not place.exists()
            assert broken.name() not in {volume.name() for volume in pool.listAllVolumes()}
        finally:
            (tmp_path / "kept").rename(place)


class TestMachine:
    """One machine for all, which has gone on from its kept state."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, first_run: Run) -> Iterator[Lab]:
        """Bring the machine up again."""
        with Run.of(MACHINE) as (_, lab):
            yield lab

    async def test_cloud_init_did_what_the_file_says(self, lab: Lab) -> None:
        machine = lab["machine"]
        assert await machine.read_text("/srv/ran") == "ran\n"
        assert await machine.read_text("/srv/written") == "of the file\n"
        script = "stat -c %a /srv/written; id -un iontest; sudo -l -U iontest | grep -c NOPASSWD"
        assert (await machine.exec(script, check=True)).stdout == "640\niontest\n1\n"

    async def test_memory_processors_and_disk_are_as_declared(self, lab: Lab) -> None:
        machine = lab["machine"]
        memory = await machine.exec(
            "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo", check=True
        )
        assert 400 < int(memory.stdout) <= 512
        assert (await machine.exec("nproc", check=True)).stdout == "1\n"
        disk = await machine.exec("df -BM --output=size / | tail -n1", check=True)
        assert 2700 < int(disk.stdout.strip().removesuffix("M")) <= 3072

    async def test_the_log_is_the_serial_console_from_its_first_line(self, lab: Lab) -> None:
        log = await lab["machine"].logs()
        assert "Linux version" in log or "cloud-init" in log
        assert "\x1b" not in log
        assert "\r" not in log

    async def test_links_are_devices_of_this_machine(self, lab: Lab, libvirtd: Any) -> None:
        described = domain_of(libvirtd, lab).XMLDesc(0)
        links = await lab._context.backend.links("machine")
        assert list(links) == ["lan"]
        assert f"dev='{links['lan'].device}'" in described

    async def test_an_existing_machine_is_used_and_left_as_it_was(
        self, lab: Lab, libvirtd: Any
    ) -> None:
        domain = domain_of(libvirtd, lab)
        before = (domain.XMLDesc(0), domain.UUIDString(), domain.state())
        networks = {network.name() for network in libvirtd.listAllNetworks()}
        text = EXISTING.format(domain=domain.name())
        async with Lab.open(load_text(text), backend="libvirt") as existing:
            assert {network.name() for network in libvirtd.listAllNetworks()} == networks
            there = existing["there"]
            assert there.status is NodeStatus.RUNNING
            assert (await there.exec("id -un; uname -n", check=True)).stdout == "iontest\nmachine\n"
            assert (
                await there.exec(["which", "python3"], check=True)
            ).stdout == "/usr/bin/python3\n"
            for refused in (there.stop(), there.kill(), there.pause(), there.restart()):
                with pytest.raises(NotSupported):
                    await refused
        assert (domain.XMLDesc(0), domain.UUIDString(), domain.state()) == before
        assert (await lab["machine"].exec("true")).ok

    async def test_a_lab_that_fails_leaves_an_existing_machine_as_it_was(
        self, lab: Lab, libvirtd: Any
    ) -> None:
        domain = domain_of(libvirtd, lab)
        text = EXISTING.format(domain=domain.name()).replace(
            "existing:", "setup: [exit 7], existing:"
        )
        with pytest.raises(LabError, match="exit code 7"):
            async with Lab.open(load_text(text), backend="libvirt"):
                pytest.fail("the lab came up")
        assert domain.isActive()

    async def test_a_wrong_password_for_an_existing_machine_is_told(
        self, lab: Lab, libvirtd: Any
    ) -> None:
        domain = domain_of(libvirtd, lab).name()
        text = EXISTING.format(domain=domain).replace("password: iontest", "password: wrong")
        with pytest.raises(LabError, match="refused the login") as caught:
            async with Lab.open(load_text(text), backend="libvirt"):
                pytest.fail("the lab came up")
        assert caught.value.node == "there"

    async def test_an_existing_machine_that_is_missing_is_told_with_what_there_is(
        self, lab: Lab, libvirtd: Any
    ) -> None:
        name = domain_of(libvirtd, lab).name()
        with pytest.raises(MachineMissing, match="there is no machine") as caught:
            async with Lab.open(load_text(EXISTING.format(domain=f"{name}x")), backend="libvirt"):
                pytest.fail("the lab came up")
        assert f"did you mean {name!r}" in str(caught.value)

    async def test_an_existing_machine_that_is_paused_is_not_resumed(
        self, lab: Lab, libvirtd: Any
    ) -> None:
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
        self, lab: Lab, libvirtd: Any, tmp_path: Path
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
        async with Lab.open(
            tmp_path / "there.yaml", backend="libvirt"
        ) as again:  # it is not locked
            assert (await again["there"].exec("true")).ok


class TestEnd:
    """A machine of its own, which ends."""

    async def test_a_domain_that_ends_is_told_within_two_seconds_with_its_console(
        self, first_run: Run, libvirtd: Any
    ) -> None:
        with Run.of(MACHINE) as (_, lab):
            machine = lab["machine"]
            command = asyncio.create_task(machine.exec("sleep 1000"))
            wait = asyncio.create_task(machine.wait_for_file("/no/such/file", timeout=60))
            await machine.exec("until pgrep -x sleep; do sleep 0.1; done", check=True)
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
