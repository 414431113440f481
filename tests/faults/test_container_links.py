"""Cut containers, and what may happen meanwhile: a daemon that is frozen, a test session that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.topology.loader import load_text
from tests.daemons.endpoints import connection
from tests.daemons.images import reference
from tests.daemons.private import PrivateDockerd, private_dockerd
from tests.faults.sessions import start, wait_for_output

PAIR = f"""
metadata: {{name: cut}}
network: {{name: lan}}
nodes: [{{name: one, image: "{reference("debian")}"}}, {{name: two, image: "{reference("debian")}"}}]
"""

SESSION = """
import pytest

@pytest.mark.topology("pair.yaml")
def test_it(lab):
    with lab.sync.partition({"one"}, {"two"}), lab.sync["one"].impair(bandwidth_kbps=1000):
        print("CUT", flush=True)
        lab.sync["one"].exec("sleep 1000", timeout=900)
"""

CUT: dict[str, list[str]] = {"one": [], "two": []}
WHOLE = {"one": ["two"], "two": ["one"]}


@pytest.fixture(scope="module")
def dockerd() -> Iterator[PrivateDockerd]:
    with private_dockerd() as daemon:
        yield daemon


def control_of(pid: int | str) -> list[str]:
    """Return the queues of containers' devices and what else acts there, in a process's network namespace.

    Containers' devices are called eth0 and so on, and ours after them.
    """
    commands = (
        ("ip", "-br", "link", "show"),
        ("tc", "qdisc", "show"),
        ("tc", "filter", "show", "dev", "eth0", "ingress"),
    )
    shown = [
        subprocess.run(
            ["nsenter", "-t", str(pid), "-n", *command], capture_output=True, text=True, check=False
        ).stdout
        for command in commands
    ]
    # As words: the random name of somebody's veth may contain "eth0", too.
    return [line for line in "".join(shown).splitlines() if re.search(r"\beth0\b|bpf", line)]


async def test_a_frozen_daemon_is_not_needed_to_cut_and_to_heal(
    dockerd: PrivateDockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        dockerd.freeze()
        try:
            async with lab.partition({"one"}, {"two"}):
                assert await lab.reachability() == CUT
            assert await lab.reachability() == WHOLE
        finally:
            dockerd.thaw()


async def test_what_is_killed_behind_our_back_in_a_partition_does_no_harm(
    dockerd: PrivateDockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        async with lab.partition({"one"}, {"two"}):
            with connection(dockerd.host) as client:
                label = {"label": [f"benchscale.lab={lab.lab_id}", "benchscale.node=two"]}
                (container,) = client.containers.list(filters=label)
                container.kill()
        assert await lab.reachability() == CUT  # nobody is there
        await lab["two"].start()
        assert await lab.reachability() == WHOLE


def test_killing_pytest_in_a_partition_leaves_nothing_on_the_machine(
    dockerd: PrivateDockerd, workplace: Path
) -> None:
    (workplace / "pair.yaml").write_text(PAIR)
    (workplace / "test_it.py").write_text(SESSION)
    argv = ["-m", "pytest", "-s", "-p", "no:cacheprovider", "--benchscale-backend=docker", "."]
    before = {pid: control_of(pid) for pid in (os.getpid(), dockerd.pid)}
    with connection(dockerd.host) as client:
        process = start(argv, cwd=workplace, env={"DOCKER_HOST": dockerd.host})
        try:
            wait_for_output(process, "CUT", seconds=60)
            nodes = client.api.containers(filters={"label": "benchscale.lab"})
            pids = [client.api.inspect_container(one["Id"])["State"]["Pid"] for one in nodes]
            shown = "".join(line for pid in pids for line in control_of(pid))
            assert "clsact" in shown
            assert "eth0-q0" in shown
            assert "direct-action" in shown
        finally:
            process.kill()
            process.communicate()
        assert {pid: control_of(pid) for pid in before} == before
        # The nodes, with what acts on them, are removed by the process that watched over the lab.
        deadline = time.monotonic() + 30
        lab = {"label": "benchscale.lab"}
        while client.api.containers(all=True) or client.api.networks(filters=lab) or _listed():
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _listed() -> bool:
    """Return whether the ledger has a lab of this module."""
    return any(one.record is not None and one.record.name == "cut" for one in Ledger().labs())
