"""What is left when pytest, the holder of a lab or a node's init is killed: nothing, and told at once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from pytest_benchscale import Lab, NodeDied, Topology
from tests.faults.sessions import start, wait_for_output
from tests.machine import Snapshot, lab_processes, wait_until_as_before

PAIR = """
metadata: {name: pair}
network: {name: lan, subnet: 10.88.0.0/24}
nodes: [{name: one}, {name: two}, {name: three}]
"""

SESSION = """
import pytest

@pytest.mark.topology("pair.yaml")
def test_it(lab):
    for node in lab.sync.nodes.values():
        node.exec("sleep 1000 & (setsid sleep 1000 &) echo x > /srv/file; mkdir -p /tmp/d")
    print("BUSY", flush=True)
    lab.sync["one"].exec("sleep 1000", timeout=900)
"""


@pytest.fixture
def session(workplace: Path) -> list[str]:
    (workplace / "pair.yaml").write_text(PAIR)
    (workplace / "test_it.py").write_text(SESSION)
    return ["-m", "pytest", "-s", "-p", "no:cacheprovider", "--benchscale-backend=local", "."]


def test_killing_pytest_in_a_test_leaves_nothing(
    session: list[str], workplace: Path, nothing_left: Snapshot
) -> None:
    process = start(session, cwd=workplace)
    wait_for_output(process, "BUSY")
    assert len(lab_processes()) >= 5
    process.kill()
    process.communicate()
    assert wait_until_as_before(nothing_left, seconds=5) == {}


@pytest.mark.parametrize("moment", range(8))
def test_killing_pytest_while_it_brings_a_lab_up_leaves_nothing(
    session: list[str], workplace: Path, nothing_left: Snapshot, moment: int
) -> None:
    process = start(session, cwd=workplace)
    wait_for_output(process, "test session starts")
    time.sleep(random.Random(moment).uniform(0.0, 0.5))
    process.kill()
    process.communicate()
    assert wait_until_as_before(nothing_left, seconds=5) == {}


def test_killing_pytest_of_an_ordinary_user_leaves_nothing(
    session: list[str], workplace: Path, as_nobody: str, nothing_left: Snapshot
) -> None:
    process = start(session, cwd=workplace, python=as_nobody, user=65534)
    wait_for_output(process, "BUSY")
    process.kill()
    process.communicate()
    assert wait_until_as_before(nothing_left, seconds=5) == {}


@pytest.mark.parametrize("moment", ["bring-up", "test", "teardown"])
def test_ctrl_c_is_reported_and_leaves_nothing(
    session: list[str], workplace: Path, nothing_left: Snapshot, moment: str
) -> None:
    if moment == "bring-up":
        slow = PAIR.replace("{name: two}", "{name: two, setup: ['sleep 60']}")
        (workplace / "pair.yaml").write_text(slow)
    if moment == "teardown":
        # A main command that ignores SIGTERM makes the teardown take its time.
        stubborn = "command: ['/bin/sh', '-c', 'trap \"\" TERM; while :; do sleep 1; done']"
        (workplace / "pair.yaml").write_text(
            PAIR.replace("{name: two}", f"{{name: two, {stubborn}}}")
        )
        (workplace / "test_it.py").write_text(SESSION.replace("1000, timeout", "0, timeout"))
    process = start(session, cwd=workplace)
    wait_for_output(process, "test session starts" if moment == "bring-up" else "BUSY")
    time.sleep({"bring-up": 1.5, "test": 0.3, "teardown": 0.05}[moment])
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    if moment != "teardown":  # there, the test may have been over
        assert process.returncode == 2, output
        assert "KeyboardInterrupt" in output
    assert wait_until_as_before(nothing_left, seconds=5) == {}


def test_a_lab_whose_holder_is_killed_says_so_at_once(nothing_left: Snapshot) -> None:
    with Lab.open_sync(_pair(), backend="local") as lab:
        (holder,) = (  # another test's lab may be up, too
            pid
            for pid, name in lab_processes()
            if name == "benchscale-lab" and f"{pid} {name}" not in nothing_left.processes
        )
        os.kill(holder, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(NodeDied, match="one"):
            lab.sync["one"].exec("sleep 30")
        assert time.monotonic() - began < 2


def test_a_node_whose_init_is_killed_from_outside_is_dead_at_once(nothing_left: Snapshot) -> None:
    with Lab.open_sync(_pair(), backend="local") as lab:
        two = lab.sync["two"]
        pid = _init_of(lab, "two")
        process = two.process("sleep 100")
        with process as running:
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(NodeDied, match="two"):
                running.wait(5)
        assert two.status == "dead"
        with pytest.raises(NodeDied, match="killed"):
            two.exec("true")
        with pytest.raises(NodeDied):
            two.wait_for_port(80, timeout=5)
        assert lab.sync["one"].exec("true").ok
        two.start()
        assert two.exec("hostname").stdout == "two\n"


def test_a_test_that_leaves_background_processes_is_cleaned_up_after(
    nothing_left: Snapshot,
) -> None:
    with Lab.open_sync(_pair(), backend="local") as lab:
        for node in lab.sync.nodes.values():
            node.exec("for i in 1 2 3 4 5; do sleep 1000 & done; (setsid sleep 1000 &)")
        began = time.monotonic()
    assert time.monotonic() - began < 5


def _pair() -> Topology:
    nodes = [{"name": name} for name in ("one", "two", "three")]
    return Topology.from_dict({"metadata": {"name": "pair"}, "nodes": nodes})


def _init_of(lab: Lab, node: str) -> int:
    """Return the process, as this machine numbers it, that is the node's init."""
    wanted = lab.sync[node].exec("readlink /proc/1/ns/uts").stdout.strip()
    (pid,) = (
        pid
        for pid, name in lab_processes()
        if name == "benchscale-init" and os.readlink(f"/proc/{pid}/ns/uts") == wanted
    )
    return pid
