"""A machine that lacks something: namespaces, overlays, processes, space, tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_benchscale import Lab, LabError, Topology
from pytest_benchscale.backends.local.backend import LocalBackend
from pytest_benchscale.lab.portal import Portal
from tests.faults.sessions import NOBODY, ROOT_OF_PROJECT, start
from tests.machine import Snapshot

USE_A_LAB = """
import sys
from pytest_benchscale import BenchscaleError, Lab, Topology

nodes = [{"name": f"n{i}"} for i in range(int(sys.argv[1]))]
try:
    topology = Topology.from_dict({"metadata": {"name": "x"}, "nodes": nodes})
    with Lab.open_sync(topology, backend="local") as lab:
        print("names", sorted(result.stdout.strip() for result in lab.sync.exec("hostname").values()))
except BenchscaleError as error:
    print(type(error).__name__, "|", error)
"""


@pytest.fixture
def program(workplace: Path) -> list[str]:
    (workplace / "use_a_lab.py").write_text(USE_A_LAB)
    return ["use_a_lab.py", "2"]


def test_switched_off_user_namespaces_are_named_with_their_sysctl(
    program: list[str], workplace: Path, nothing_left: Snapshot
) -> None:
    # The limit is each user namespace's own, so a new one can be without further ones.
    off = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT_OF_PROJECT), *sys.path[1:]])}
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", off, "sh", sys.executable, *program],
        cwd=workplace,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "BackendUnavailable" in result.stdout, result.stdout + result.stderr
    assert "user namespaces are switched off (user.max_user_namespaces = 0)" in result.stdout
    assert "sysctl -w user.max_user_namespaces=" in result.stdout


def test_too_few_processes_are_named_with_the_limit(
    program: list[str], workplace: Path, as_nobody: str, nothing_left: Snapshot
) -> None:
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NPROC, (20, 20)); "
    limited += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = ["-c", limited, program[0], "60"]
    process = start(argv, cwd=workplace, user=NOBODY, python=as_nobody)
    output, _ = process.communicate(timeout=60)
    assert "can start no further process" in output
    assert "ulimit -u" in output
    assert "Traceback" not in output


def test_no_tool_on_the_path_is_needed(
    program: list[str], workplace: Path, nothing_left: Snapshot
) -> None:
    process = start(program, cwd=workplace, env={"PATH": "/nonexistent"})
    output, _ = process.communicate(timeout=60)
    assert "names ['n0', 'n1']" in output


def test_an_ordinary_user_gets_a_lab(
    program: list[str], workplace: Path, as_nobody: str, nothing_left: Snapshot
) -> None:
    process = start(program, cwd=workplace, user=NOBODY, python=as_nobody)
    output, _ = process.communicate(timeout=60)
    assert "names ['n0', 'n1']" in output


def test_a_kernel_that_refuses_overlays_gets_read_only_roots_and_writable_places(
    nothing_left: Snapshot,
) -> None:
    topology = Topology.from_dict(
        {"metadata": {"name": "x"}, "nodes": [{"name": "a"}, {"name": "b"}]}
    )
    with Portal() as portal:
        lab = Lab(topology, LocalBackend(overlay=False), portal=portal)
        portal.call_blocking(lab.up)
        try:
            node = lab.sync["a"]
            node.exec(
                "echo x > /srv/x; echo x > /root/x; echo x > /tmp/x; echo x > /etc/new", check=True
            )
            assert node.exec("hostname; getent hosts b").ok
            refused = node.exec("echo x > /usr/bin/new")
            assert not refused.ok
            assert "Read-only file system" in refused.stderr
            assert not lab.sync["b"].exec("cat /srv/x").ok
        finally:
            portal.call_blocking(lab.down)
    assert not Path("/srv/x").exists()


def test_a_full_disk_under_a_node_is_an_error_with_the_file(
    nothing_left: Snapshot, workplace: Path
) -> None:
    big = workplace / "big"
    big.write_bytes(bytes(4 << 20))
    topology = Topology.from_dict({"metadata": {"name": "x"}, "nodes": [{"name": "a"}]})
    with Lab.open_sync(topology, backend="local") as lab:
        node = lab.sync["a"]
        node.exec("mount -t tmpfs -o size=1m small /mnt", check=True)
        with pytest.raises(LabError, match="No space left on device") as caught:
            node.put(big, "/mnt/big")
        assert "/mnt/big" in str(caught.value)
        with pytest.raises(LabError, match="No space left on device"):
            node.write_bytes("/mnt/other", bytes(4 << 20))
        assert node.exec("rm /mnt/*; echo fine > /mnt/x && cat /mnt/x").stdout == "fine\n"


def test_two_hundred_nodes_all_know_each_other(nothing_left: Snapshot) -> None:
    nodes = [{"name": f"n{i}"} for i in range(200)]
    topology = Topology.from_dict({"metadata": {"name": "crowd"}, "nodes": nodes})
    with Lab.open_sync(topology, backend="local") as lab:
        names = lab.sync.exec("hostname; getent hosts n199 n0 | wc -l")
        assert {name: result.stdout for name, result in names.items()} == {
            f"n{i}": f"n{i}\n2\n" for i in range(200)
        }
