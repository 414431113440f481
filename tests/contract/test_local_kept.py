"""A lab of the embedded backend without the process that made it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.backends.local import meeting
from pytest_benchscale.backends.local.backend import LocalBackend
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

MAKER = """
import json, sys, time
from pytest_benchscale import Lab, Topology
nodes = [{"name": "a", "command": ["sh", "-c", "echo said; exec sleep 1000"]}, {"name": "b"}]
topology = Topology.from_dict({"metadata": {"name": "kept"}, "network": {"name": "lan"}, "nodes": nodes})
with Lab.open_sync(topology, backend="local") as lab:
    beat = "date +%s%N > /tmp/next; mv /tmp/next /tmp/beat"  # never half of one
    lab.sync["b"].exec(f"(while sleep 0.1; do echo still here; {beat}; done) & echo", check=True)
    lab.sync["b"].wait_for_file("/tmp/beat")
    lab.sync["a"].write_text("/tmp/file", "kept")
    lab.sync["a"].pause()
    lab.portal.call_blocking(lab.keep, json.loads(sys.argv[1]))
    plan = lab._plan
    print(json.dumps({"lab": lab.lab_id, "owner": plan.labels["benchscale.run"]}), flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path / "state"))


def make(seconds: float | None = 300) -> dict[str, str]:
    """Have a process make a lab, keep it, and be killed."""
    argv = [sys.executable, "-c", MAKER, json.dumps(seconds)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    facts: dict[str, str] = json.loads(line)
    return facts


def is_there(facts: dict[str, str]) -> bool:
    return any(thing.lab_id == facts["lab"] for thing in meeting.kept_labs(facts["owner"]))


async def remove(facts: dict[str, str]) -> None:
    await LocalBackend().delete_owned(facts["owner"], facts["lab"])


@pytest.fixture
def kept() -> Iterator[dict[str, str]]:
    facts = make()
    yield facts
    with Portal() as portal:
        portal.call_blocking(remove, facts)
    assert not is_there(facts)


def take_over(facts: dict[str, str], portal: Portal) -> Lab:
    found = next(one for one in Ledger().labs() if one.lab_id == facts["lab"])
    entry = Ledger().take(facts["lab"])
    assert entry is not None
    assert found.kept is not None
    return portal.call_blocking(attach, entry, found.kept, portal, LabOptions())


def test_a_lab_lives_on_without_its_maker_and_ends_with_its_next_owner(
    kept: dict[str, str],
) -> None:
    assert is_there(kept)
    with Portal() as portal:
        lab = take_over(kept, portal)
        a, b = lab.sync["a"], lab.sync["b"]
        assert a.status == "paused"
        a.resume()
        assert a.read_text("/tmp/file") == "kept"
        assert a.logs() == "said\n"
        beat = b.read_text("/tmp/beat")
        b.wait_for_exec(f"test $(cat /tmp/beat) -gt {beat.strip()}", 10)
        b.stop()
        b.start()
        assert lab.sync.reachability() == {"a": ["b"], "b": ["a"]}
        portal.call_blocking(lab.down)
    assert not is_there(kept)
    assert not list(Ledger().labs())


def test_it_may_be_kept_again_and_again(kept: dict[str, str]) -> None:
    for number in range(3):
        with Portal() as portal:
            lab = take_over(kept, portal)
            if number == 0:
                lab.sync["a"].resume()
                lab.sync["b"].kill()
            assert lab.sync["a"].exec("echo alive").stdout == "alive\n"
            assert lab.sync["b"].status == "stopped"
            portal.call_blocking(lab.keep, 300)
        assert is_there(kept)


def test_it_ends_when_its_time_is_over() -> None:
    facts = make(1)
    deadline = time.monotonic() + 20
    while is_there(facts):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_ends_at_once_with_an_owner_who_is_killed(kept: dict[str, str]) -> None:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Portal() as portal:
                take_over(kept, portal)
                os.write(tell, b"y")
                time.sleep(100)
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"y"
    os.close(ready)
    assert is_there(kept)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 10
    while is_there(kept):
        assert time.monotonic() < deadline
        time.sleep(0.02)
