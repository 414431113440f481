"""What is special to the `local` backend: its roots, its isolation from the machine, its limits."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import BackendUnavailable, Lab, LabError, NotSupported, Topology
from pytest_benchscale.backends.local.backend import LocalBackend
from tests.rootfs import make_rootfs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


def topology(*nodes: dict[str, Any], **keys: Any) -> Topology:
    return Topology.from_dict({"metadata": {"name": "roots"}, "nodes": list(nodes), **keys})


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture(scope="module")
def host_root() -> Iterator[Lab]:
    with Lab.open_sync(topology({"name": "a"}, {"name": "b"}), backend="local") as lab:
        yield lab


def test_a_directory_is_a_root_that_stays_as_it_was(rootfs: Path) -> None:
    nodes = [{"name": name, "image": {"local": str(rootfs)}} for name in ("a", "b")]
    with Lab.open_sync(topology(*nodes), backend="local") as lab:
        a, b = lab.sync["a"], lab.sync["b"]
        assert a.read_text("/etc/os-release") == "ID=tiny\n"
        a.exec("echo mine > /etc/os-release; rm /etc/passwd; echo x > /new", check=True)
        assert a.read_text("/etc/os-release") == "mine\n"
        assert b.read_text("/etc/os-release") == "ID=tiny\n"
        assert a.exec("cat /etc/hosts").stdout.count(" b") == 1
    assert (rootfs / "etc/os-release").read_text() == "ID=tiny\n"
    assert (rootfs / "etc/passwd").exists()
    assert not (rootfs / "new").exists()


def _tarball(path: Path, compression: str) -> tarfile.TarFile:
    if compression == "gz":
        return tarfile.open(path, "w:gz", compresslevel=1)
    if compression == "xz":
        return tarfile.open(path, "w:xz", preset=0)
    return tarfile.open(path, "w")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_a_tarball_is_a_root(rootfs: Path, tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"root.{suffix}"
    with _tarball(archive, suffix.removeprefix("tar").lstrip(".")) as tar:
        tar.add(rootfs, arcname=".")
    nodes = [{"name": name, "image": {"local": str(archive)}} for name in ("a", "b")]
    with Lab.open_sync(topology(*nodes), backend="local") as lab:
        assert lab.sync["a"].exec(["cat", "/etc/os-release"]).stdout == "ID=tiny\n"
        assert lab.sync["b"].exec("id").ok


def test_a_hostile_tarball_cannot_leave_its_node(rootfs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    target = tmp_path / "escaped"
    with tarfile.open(archive, "w") as tar:
        tar.add(rootfs, arcname=".")
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        for name in ("out/escaped", f"../../../../../../..{target}", str(target)):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"x\n"))
    # Whether it is refused or unpacked does not matter, where its files end up does.
    hostile = topology({"name": "a", "image": {"local": str(archive)}})
    with suppress(LabError), Lab.open_sync(hostile, backend="local"):
        pass
    assert not target.exists()


def test_a_file_that_is_no_tarball_is_an_error_that_names_it(tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(os.urandom(4096))
    with (
        pytest.raises(LabError, match="cannot be unpacked") as caught,
        Lab.open_sync(topology({"name": "a", "image": {"local": str(archive)}}), backend="local"),
    ):
        pass
    assert str(archive) in str(caught.value)


def test_a_root_that_is_not_there_is_an_error_that_names_it() -> None:
    with (
        pytest.raises(LabError, match="/nonexistent/root"),
        Lab.open_sync(
            topology({"name": "a", "image": {"local": "/nonexistent/root"}}), backend="local"
        ),
    ):
        pass


def test_an_image_without_a_mapping_is_refused_and_never_pretended() -> None:
    with (
        pytest.raises(
            (NotSupported, LabError, BackendUnavailable), match="--benchscale-image ubuntu=host"
        ),
        Lab.open_sync(topology({"name": "a", "image": "ubuntu"}), backend="local"),
    ):
        pass


def test_what_needs_a_machine_of_its_own_is_refused() -> None:
    for key, value in {"disk_gb": 5, "existing": "test1", "cloud_init": {"user": "x"}}.items():
        with (
            pytest.raises((NotSupported, LabError, BackendUnavailable), match=key),
            Lab.open_sync(topology({"name": "a", key: value}), backend="local"),
        ):
            pass


def test_writes_do_not_reach_the_machine(host_root: Lab) -> None:
    a = host_root.sync["a"]
    a.exec("echo x > /etc/benchscale-probe; echo x > /srv/benchscale-probe", check=True)
    a.exec("echo x > /tmp/benchscale-probe; mkdir /opt/benchscale-probe", check=True)
    for path in ("/etc", "/srv", "/tmp", "/opt"):
        assert not Path(path, "benchscale-probe").exists()
        assert not host_root.sync["b"].exec(["ls", f"{path}/benchscale-probe"]).ok


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -o remount,rw /proc/sys/kernel && echo 1 > /proc/sys/kernel/panic",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 3 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "mknod /root/disk b 8 0",
        "mount -t devtmpfs none /mnt",
        "ls /proc/1/root/proc/1/root/run/node1",
    ],
)
def test_root_in_a_node_has_no_power_over_the_machine(host_root: Lab, attempt: str) -> None:
    assert not host_root.sync["a"].exec(attempt).ok


def test_a_node_finds_nothing_of_other_nodes_in_its_first_process(host_root: Lab) -> None:
    listing = host_root.sync["a"].exec("ls -l /proc/1/fd/ | grep -c -e 'net:' -e 'user:' -e 'mnt:'")
    assert listing.stdout == "0\n"


def test_zombies_are_reaped(host_root: Lab) -> None:
    a = host_root.sync["a"]
    a.exec("for i in $(seq 50); do (sh -c 'exit 0' &) ; done; sleep 0.2", check=True)
    states = a.exec("cat /proc/[0-9]*/stat | cut -d')' -f2 | cut -c2 | grep -c Z")
    assert states.stdout == "0\n"


def test_python_is_found_in_a_node_of_the_machines_root(host_root: Lab) -> None:
    assert host_root.sync["a"].exec(["python3", "-c", "print(1)"]).stdout == "1\n"


def test_a_volume_is_shared_with_the_machine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/given").write_text("from outside")
    (tmp_path / "file").write_text("one file")
    volumes = [f"{tmp_path}/data:/srv/data", f"{tmp_path}/file:/etc/given:ro"]
    with Lab.open_sync(topology({"name": "a", "volumes": volumes}), backend="local") as lab:
        a = lab.sync["a"]
        assert a.read_text("/srv/data/given") == "from outside"
        a.exec("echo inside > /srv/data/made", check=True)
        assert a.read_text("/etc/given") == "one file"
        assert not a.exec("echo x > /etc/given").ok
    assert (tmp_path / "data/made").read_text() == "inside\n"


def test_a_volume_whose_source_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    node = {"name": "a", "volumes": [f"{tmp_path}/missing:/srv"]}
    with (
        pytest.raises(LabError, match="missing"),
        Lab.open_sync(topology(node), backend="local"),
    ):
        pass


def test_a_limit_is_enforced_or_said_not_to_be() -> None:
    declared = topology({"name": "a", "memory_mb": 64, "vcpus": 0.5})
    unenforced = " ".join(asyncio.run(LocalBackend().notes(declared)))
    hungry = "bytearray(200 << 20); print('had it')"
    busy = """import time
began, wanted = time.monotonic(), 0.4
while time.process_time() < wanted: pass
print(time.monotonic() - began)"""
    with Lab.open_sync(declared, backend="local") as lab:
        a = lab.sync["a"]
        had_it = a.exec(["python3", "-c", hungry]).ok
        share = 0.4 / float(a.exec(["python3", "-c", busy]).stdout)
        assert a.exec("true").ok
    assert had_it == ("memory_mb of node 'a' is not enforced" in unenforced)
    assert share < 0.75 or "vcpus of node 'a' is not enforced" in unenforced


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace to play the outside")
def test_internet_true_reaches_outside_and_false_does_not(tmp_path: Path) -> None:
    """In a network namespace of its own, a server on a veth plays the internet."""
    program = Path(__file__).with_name("internet_probe.py")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]]),
    }
    result = subprocess.run(
        ["unshare", "--net", sys.executable, str(program)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "slirp4netns on PATH" in result.stdout and not os.environ.get("CI"):
        pytest.skip("slirp4netns is not installed")
    assert result.stdout.splitlines()[-2:] == ["open: outside", "closed: unreachable"], (
        result.stdout + result.stderr
    )


def test_internet_without_slirp4netns_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    wanted = topology({"name": "a"}, network={"name": "wan", "internet": True})
    with (
        pytest.raises((NotSupported, LabError, BackendUnavailable), match="slirp4netns"),
        Lab.open_sync(wanted, backend="local"),
    ):
        pass


def test_the_machines_own_ports_are_out_of_reach(host_root: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        assert "refused" in host_root.sync["a"].exec(["python3", "-c", code]).stderr


def test_what_was_mounted_beneath_a_root_may_be_gone_when_a_node_starts(tmp_path: Path) -> None:
    # As the root of a container is that ended after the lab had looked: in a mount namespace of its own.
    program = f"""
import os, subprocess
from pytest_benchscale.backends.local import rootfs
lower, point, scratch = "{tmp_path}/lower", "{tmp_path}/lower/merged", "{tmp_path}/scratch"
for directory in (lower + "/etc", point, scratch):
    os.makedirs(directory)
for directory in (point, scratch):
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
layout = rootfs.survey(lower, scratch + "/image")
assert "merged" in [layer.target for layer in layout.layers]
subprocess.run(["umount", point], check=True)
os.rmdir(point)
print(os.listdir(rootfs.mount_layers(layout, scratch + "/node", {{"hosts": ""}}) + "/etc"))
"""
    unshare = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", program]
    run = subprocess.run(unshare, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout) == (0, "['hosts']\n"), run.stderr
