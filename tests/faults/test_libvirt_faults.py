"""Virtual machines that cannot be made, and a libvirt daemon that goes away: told in time, nothing left.

All but one of these need no system in the guest.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import BackendUnavailable, BenchscaleError, Lab
from pytest_benchscale.errors import SubnetTaken
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.topology.loader import load_text
from tests.daemons import virtual
from tests.daemons.guests import guest, guest_path, one_machine
from tests.daemons.packages import search_path
from tests.daemons.private_libvirtd import PrivateLibvirtd, private_libvirtd

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio]

MACHINE = (
    "network: {{name: lan}}\nnodes: [{{name: machine, image: {image!r}, memory_mb: 256{more}}}]\n"
)
HURRY = LabOptions(timeout_scale=0.01)  # 3.6 s until an address has to be there


def machine(image: object = "", more: str = "") -> str:
    return MACHINE.format(image=str(image or guest_path()), more=more and f", {more}")


async def failure(text: str, options: LabOptions | None = None) -> BenchscaleError:
    """Return how a lab fails to come up."""
    with pytest.raises(BenchscaleError) as caught:
        async with Lab.open(load_text(text), backend="libvirt", options=options):
            pytest.fail("the lab came up")
    return caught.value


@pytest.fixture
def libvirtd() -> Iterator[Any]:
    """Look at the daemon by other means than ours."""
    with virtual.connection(virtual.find()) as connection:
        yield connection


@pytest.fixture(autouse=True)
def nothing_of_it_is_left(libvirtd: Any) -> Iterator[None]:
    """Count domains, networks, volumes and pools."""
    before = things(libvirtd)
    yield
    assert things(libvirtd) == before


def things(libvirtd: Any) -> set[str]:
    pools = libvirtd.listAllStoragePools()
    volumes = [volume for pool in pools for volume in pool.listAllVolumes()]
    found = [*libvirtd.listAllDomains(), *libvirtd.listAllNetworks(), *volumes]
    return {thing.name() for thing in found if not thing.name().startswith(virtual.STAYING)}


def qemu_img(*arguments: object) -> None:
    command = ["qemu-img", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": search_path()})


# --- images ---


async def test_an_image_that_is_missing_is_named(tmp_path: Path) -> None:
    error = await failure(machine(tmp_path / "none.qcow2"))
    assert f"{tmp_path}/none.qcow2" in str(error)


async def test_an_image_that_was_cut_short_is_told(tmp_path: Path) -> None:
    short = tmp_path / "short.qcow2"
    with guest_path().open("rb") as whole:
        short.write_bytes(whole.read(1 << 20))
    assert "is not complete: its L2 tables end at" in str(await failure(machine(short)))


async def test_an_image_of_another_sum_is_told() -> None:
    error = await failure(machine(f"{guest_path()}#sha256={'0' * 64}"))
    assert "sha256" in str(error).lower() or "sum" in str(error)


async def test_an_image_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "image.qcow2").write_text("<html>not found</html>" * 100)
    assert "image.qcow2" in str(await failure(machine(tmp_path / "image.qcow2")))


async def test_an_image_larger_than_the_disk_is_told() -> None:
    error = await failure(machine(more="disk_gb: 1"))
    assert "`disk_gb`" in str(error)


# --- the machine ---


async def test_memory_beyond_that_of_the_machine_is_told() -> None:
    error = await failure(machine().replace("memory_mb: 256", "memory_mb: 99999999"))
    assert "99999999 MiB of memory" in str(error)


async def test_a_subnet_of_another_network_is_told_with_its_holder(libvirtd: Any) -> None:
    other = libvirtd.networkCreateXML(
        "<network><name>somebodys</name><bridge name='somebodys0'/>"
        "<ip address='10.213.7.1' prefix='24'/></network>"
    )
    try:
        text = machine().replace("name: lan", "name: lan, subnet: 10.213.7.0/25")
        error = await failure(text)
        assert isinstance(error, SubnetTaken)
        assert "'somebodys'" in error.brief
        assert other.isActive()
    finally:
        other.destroy()


async def test_a_kernel_panic_is_told_with_the_console() -> None:
    parts = guest()
    image = f"{parts.disk}#kernel={parts.kernel}&append=console=ttyS0 root=/dev/vda1"
    error = await failure(machine(image))  # without an initramfs it has no driver for its disk
    assert "died: its kernel panicked: VFS: Unable to mount root fs" in error.brief
    assert "the console's end:" in str(error.details)


async def test_a_machine_that_ends_in_its_boot_is_told_within_two_seconds(libvirtd: Any) -> None:
    before = things(libvirtd)
    boots = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(line: str) -> None:
        if line.endswith(": boots"):
            loop.call_soon_threadsafe(boots.set)

    failing = asyncio.create_task(failure(machine(), LabOptions(progress=heard, prepared=False)))
    async with asyncio.timeout(30):
        await boots.wait()
    (domain,) = [one for one in libvirtd.listAllDomains() if one.name() not in before]
    await asyncio.to_thread(domain.destroy)
    ended = time.monotonic()
    error = await failing
    assert "its domain was ended by somebody" in error.brief
    assert time.monotonic() - ended < 2 + 2  # the removal of what it had takes some


# In so little time its roll-back may not hear the end of what it asked for. What other tests have
# taken does not stand in such a ledger, so the subnet is one that no lab takes by itself.
@pytest.mark.usefixtures("ledger_of_its_own")
async def test_a_machine_that_never_gets_an_address_is_told(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "empty.qcow2", "64M")
    text = machine(tmp_path / "empty.qcow2").replace(
        "name: lan", "name: lan, subnet: 10.213.7.0/24"
    )
    error = await failure(text, HURRY)
    assert "never came to its address 198.1" in error.brief


# --- machines that are there ---


@pytest.fixture
def somebodys(libvirtd: Any) -> Iterator[Any]:
    """Define a machine that is off, and has no system to boot."""
    domain = libvirtd.defineXML(
        "<domain type='qemu'><name>somebodys</name><memory unit='MiB'>64</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    yield domain
    if domain.isActive():
        domain.destroy()
    domain.undefine()


async def test_a_machine_that_is_off_is_told_and_stays_off(somebodys: Any) -> None:
    error = await failure("nodes: [{name: there, existing: somebodys, ssh: {user: root}}]")
    assert "machine 'somebodys' is off" in error.brief
    assert "`start: true`" in str(error)
    assert not somebodys.isActive()


async def test_a_machine_that_is_to_be_started_is_and_stays_on_whatever_comes(
    somebodys: Any,
) -> None:
    text = "nodes: [{name: there, existing: somebodys, start: true, ssh: {user: root}}]"
    error = await failure(text, HURRY)
    assert "no address of machine 'somebodys' could be found within 3 s" in error.brief
    assert somebodys.isActive()


# --- interruptions ---


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.7, 1.0, 1.3, 1.6, 1.9, 2.5])
async def test_an_interruption_at_any_step_leaves_nothing(seconds: float) -> None:
    async def bring_up() -> None:
        async with Lab.open(load_text(machine()), backend="libvirt"):
            pytest.fail("the lab came up")

    task = asyncio.create_task(bring_up())
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- the daemon ---


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateLibvirtd]:
    with private_libvirtd() as daemon:
        yield daemon


@pytest.fixture
def private(shared: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch) -> PrivateLibvirtd:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", shared.uri)
    return shared


async def test_a_daemon_that_is_killed_and_comes_back_has_nothing_left(
    private: PrivateLibvirtd,
) -> None:
    async with Lab.open(load_text(one_machine()), backend="libvirt") as lab:
        node = lab["machine"]
        private.kill()
        assert (await node.exec("echo on")).stdout == "on\n"  # its guests need no daemon
        begun = time.monotonic()
        with pytest.raises(BenchscaleError) as caught:
            await node.pause()
        assert time.monotonic() - begun < 20
        assert isinstance(caught.value, BackendUnavailable)
        assert "is not there any more" in str(caught.value)
        private.start()
    with virtual.connection(private.uri) as connection:
        assert not [name for name in things(connection) if str(lab.lab_id) in name]


async def test_a_daemon_that_does_not_answer_is_told(private: PrivateLibvirtd) -> None:
    private.freeze()
    try:
        begun = time.monotonic()
        error = await failure(machine())
        assert time.monotonic() - begun < 30
        assert isinstance(error, BackendUnavailable)
        assert "did not answer within 20 s" in str(error)
    finally:
        private.thaw()
