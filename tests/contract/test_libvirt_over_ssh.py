"""Virtual machines of a libvirt daemon on another machine, which an sshd on loopback makes of this one's.

One machine serves all tests.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.backends.libvirt.connection import connect
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.remote import routes_at, way_to
from pytest_benchscale.backends.libvirt.storage import Storage
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.network import kernel_routes
from pytest_benchscale.topology.loader import load_text
from tests.contract.loopback_sshd import LoopbackSshd, serving
from tests.contract.sshd_machines import needs_sshd
from tests.daemons import virtual
from tests.daemons.guests import one_machine
from tests.daemons.needs import boots_more

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio, needs_sshd]

EXISTING = """
nodes:
  - {{name: there, existing: {domain}, ssh: {{user: root, key: {key}, known_hosts: none}}}}
"""


@pytest.fixture(scope="module")
def here() -> str:
    """Return the URI of the daemon as it is reached on this machine."""
    return virtual.find()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """Run an sshd."""
    with serving(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def lab(sshd: LoopbackSshd, here: str) -> Iterator[Lab]:
    """Bring up one machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(virtual.VARIABLE, sshd.uri(here))
        with Lab.open_sync(load_text(one_machine()), backend="libvirt") as lab:
            yield lab


@pytest.fixture
def libvirtd(here: str) -> Iterator[Any]:
    """Look at the daemon by other means than ours."""
    with virtual.connection(here) as connection:
        yield connection


async def test_commands_run_in_the_guest(lab: Lab) -> None:
    result = await lab["machine"].exec("cat; uname -n >&2; exit 3", input="in")
    assert (result.stdout, result.stderr, result.returncode) == ("in", "machine\n", 3)
    many = await asyncio.gather(*(lab["machine"].exec(f"echo {n}") for n in range(20)))
    assert [each.stdout for each in many] == [f"{n}\n" for n in range(20)]


async def test_files_go_there_and_back(lab: Lab, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(bytes(range(256)) * 4096)
    await lab["machine"].put(there, "/srv/file")
    await lab["machine"].get("/srv/file", back)
    assert back.read_bytes() == there.read_bytes()


async def test_the_log_is_the_console_read_by_the_daemon(lab: Lab) -> None:
    log = await lab["machine"].logs()
    assert "Linux version" in log or "cloud-init" in log
    backend: Any = lab._context.backend
    console = backend._nodes["machine"].console
    assert console.poll == 1.0  # it was not read as a file, though it could be here


async def test_a_way_that_was_cut_is_taken_again(lab: Lab, sshd: LoopbackSshd) -> None:
    running = asyncio.create_task(lab["machine"].exec("sleep 1000"))
    await lab["machine"].exec("until pgrep -x sleep; do sleep 0.1; done", check=True)
    sshd.cut_newest()
    with pytest.raises(LabError, match="connection to node 'machine' was lost"):
        await running
    assert (await lab["machine"].exec("echo again")).stdout == "again\n"
    assert lab["machine"].status is NodeStatus.RUNNING


async def test_conditions_act_on_taps_of_the_daemons_machine(lab: Lab) -> None:
    links = await lab._context.portal.call(lab._context.backend.links, "machine")
    before = at(links["lan"].device)
    async with lab["machine"].impair(bandwidth_kbps=1000, attest=False):
        assert "clsact" in at(links["lan"].device)
        assert (await lab["machine"].exec("echo there")).stdout == "there\n"
    assert at(links["lan"].device) == before


async def test_an_existing_machine_is_reached_through_the_daemons(
    lab: Lab, sshd: LoopbackSshd, here: str, libvirtd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (domain,) = [one for one in libvirtd.listAllDomains() if str(lab.lab_id) in one.name()]
    key = sshd.directory / "guest"
    backend: Any = lab._context.backend
    key.write_bytes(backend._lab.keys.login_file("machine").read_bytes())
    key.chmod(0o600)
    monkeypatch.setenv(virtual.VARIABLE, sshd.uri(here))
    topology = load_text(EXISTING.format(domain=domain.name(), key=key))
    async with Lab.open(topology, backend="libvirt") as existing:
        assert (await existing["there"].exec("uname -n", check=True)).stdout == "machine\n"
        transport: Any = existing._context.backend.transport("there")
        assert transport._connections.login.through is not None
    assert domain.isActive()


def at(device: str) -> str:
    """Return what acts on a device of this machine."""
    return subprocess.run(
        ["tc", "qdisc", "show", "dev", device], capture_output=True, text=True, check=True
    ).stdout


@boots_more
async def test_a_machine_stops_and_starts(lab: Lab) -> None:
    await lab["machine"].write_text("/srv/kept", "kept")
    await lab["machine"].exec("sync", check=True)
    await lab["machine"].stop()
    assert lab["machine"].status is NodeStatus.STOPPED
    await lab["machine"].start()
    assert await lab["machine"].read_text("/srv/kept") == "kept"


async def test_a_console_is_read_piece_by_piece(
    sshd: LoopbackSshd, here: str, tmp_path: Path
) -> None:
    connection = await connect("libvirt", sshd.uri(here))
    storage = await Storage.open(connection)
    name = f"benchscale-test-{tmp_path.parent.name}.console"
    path = await storage.write(name, b"", "machine", "console")
    console = Console(partial(storage.piece, path), poll=1.0)
    try:
        assert console.trouble() is None
        with Path(path).open("a") as written:  # as QEMU does
            written.write("Linux version\n" * 10_000)
            written.flush()
            console.skip()
            assert storage.piece(path, 5, 10) == b" version\nL"
            assert storage.piece(path, 1_000_000, 10) == b""
            written.write("Kernel panic - not syncing: real\n")
        assert console.trouble() == "its kernel panicked: real"
        assert console.trouble() is None
        assert len(console.text().splitlines()) == 10_001
        await storage.delete(name)
        assert console.text() == ""
    finally:
        await storage.delete(name)
        await connection.aclose()


async def test_the_routes_of_its_machine_are_known(sshd: LoopbackSshd, here: str) -> None:
    way = way_to(sshd.uri(here))
    assert way is not None
    before = set(kernel_routes.read())
    found = set(await routes_at(way))
    way.close()
    assert before & set(kernel_routes.read()) <= found
    assert found


async def test_a_machine_without_a_way_tells_no_routes(tmp_path: Path, here: str) -> None:
    with serving(tmp_path) as closed:
        way = way_to(closed.uri(here, keyfile=str(tmp_path / "none")))
    assert way is not None
    assert await routes_at(way) == []


@pytest.mark.parametrize(
    ("damaged", "reason", "resolution"),
    [
        ("known_hosts", "shows a host key that is not known", "accept its key"),
        ("user.pub", "refuses the login", "keyfile=PATH"),
        ("netcat", "cannot be reached, or lets nobody in", "try `virsh -c 'qemu+ssh://root@127"),
    ],
)
async def test_a_machine_that_libvirt_cannot_log_in_to_is_told(
    damaged: str, reason: str, resolution: str, here: str, tmp_path: Path
) -> None:
    with serving(tmp_path) as closed:
        (tmp_path / damaged).write_text("")
        with pytest.raises(BackendUnavailable, match=reason) as caught:
            await connect("libvirt", closed.uri(here))
        assert resolution in str(caught.value.resolution)


@pytest.mark.parametrize(
    ("of_sshd", "of_uri", "reason", "resolution"),
    [
        ("AllowTcpForwarding no", {}, "forwards no connection to 198", "AllowTcpForwarding yes"),
        ("PermitOpen none", {}, "forwards no connection to 198", "PermitOpen"),
        ("", {"known_hosts": "/dev/null"}, "shows a host key that is not", "accept its key"),
        ("", {"keyfile": "{directory}/host"}, "refused the login for 'root'", "keyfile=PATH"),
        ("", {"keyfile": "{directory}/none"}, "none cannot be used", "keyfile=PATH"),
    ],
)
async def test_a_way_that_cannot_be_taken_is_told_before_a_machine_boots(
    of_sshd: str,
    of_uri: dict[str, str],
    reason: str,
    resolution: str,
    here: str,
    libvirtd: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(tmp_path, of_sshd) as closed:
        changes = {key: value.format(directory=tmp_path) for key, value in of_uri.items()}
        monkeypatch.setenv(virtual.VARIABLE, closed.uri(here, **changes))
        with pytest.raises(LabError) as caught:
            async with Lab.open(load_text(one_machine()), backend="libvirt"):
                pytest.fail("the lab came up")
    assert caught.value.step == "ssh"
    assert reason in caught.value.brief
    assert f"root@127.0.0.1:{closed.port}" in caught.value.brief
    assert resolution in str(caught.value.resolution)
