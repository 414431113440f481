"""Eight workers and one fixed subnet: they take turns where it is shared, and leave nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons.images import reference
from tests.faults.killing import processes_marked
from tests.faults.sessions import start, wait_for_output

WORKERS = 8
# RFC 2544: for benchmarks of networks, so that nobody else has it.
SUBNETS = {"docker": "198.18.50.0/24", "podman": "198.18.51.0/24", "local": "198.18.52.0/24"}
TOPOLOGY = """
metadata: {{name: lan}}
network: {{name: lan, subnet: {subnet}}}
nodes: [{{name: one, image: {image}}}]
"""
SESSION = """
import os, time
import pytest

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.topology("lan.yaml")
def test_it(lab, number):
    with open("said", "a") as file:
        file.write(f"TEST {{os.getpid()}}\\n")
    assert lab.sync["one"].exec("true").ok
    {body}
"""
DAEMONS = ("DOCKER_", "CONTAINER", "XDG_RUNTIME")
SECONDS = 180.0


class Workplace:
    """A directory with a suite and a ledger of its own."""

    def __init__(self, directory: Path, backend: str) -> None:
        self.directory, self.backend = directory, backend
        self.mark = f"BENCHSCALE_TURNS={os.urandom(8).hex()}"
        image = None if backend == "local" else reference("debian")
        text = TOPOLOGY.format(subnet=SUBNETS[backend], image=json.dumps(image))
        (directory / "lan.yaml").write_text(text)

    def start(
        self, *options: str, tests: int = WORKERS, body: str = "pass"
    ) -> subprocess.Popen[str]:
        (self.directory / "test_it.py").write_text(SESSION.format(tests=tests, body=body))
        environment = {k: v for k, v in os.environ.items() if k.startswith(DAEMONS)}
        name, _, value = self.mark.partition("=")
        argv = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *options, "."]
        return start(
            [*argv, f"--benchscale-backend={self.backend}"],
            cwd=self.directory,
            env={
                **environment,
                name: value,
                "BENCHSCALE_STATE_DIR": str(self.directory / "state"),
            },
        )

    def said(self) -> list[str]:
        path = self.directory / "said"
        return path.read_text().splitlines() if path.exists() else []

    def labs(self) -> list[str]:
        return [path.name for path in (self.directory / "state" / "labs").glob("*")]

    def wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := [*self.labs(), *processes_marked(self.mark)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@pytest.fixture(
    params=[
        "local",
        pytest.param("docker", marks=pytest.mark.daemon("docker")),
        pytest.param("podman", marks=pytest.mark.daemon("podman")),
    ]
)
def workers(request: pytest.FixtureRequest, workplace: Path) -> Iterator[Workplace]:
    place = Workplace(workplace, request.param)
    yield place
    place.wait_until_gone(60)


def test_workers_take_turns_with_a_fixed_subnet(workers: Workplace) -> None:
    process = workers.start("-n", str(WORKERS))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert f"{WORKERS} passed" in output
    assert len(set(workers.said())) > 1  # of several workers
    assert workers.labs() == []


@pytest.mark.daemon("docker")
def test_a_worker_that_is_killed_makes_room_for_the_others(workplace: Path) -> None:
    workers = Workplace(workplace, "docker")
    die = "os.path.exists('died') or (open('died', 'w').close(), os.kill(os.getpid(), 9))"
    process = workers.start("-n", "3", tests=6, body=die)
    output, _ = process.communicate(timeout=SECONDS)
    assert re.search(r"1 failed, 5 passed|5 passed, 1 failed", output), output
    assert "SubnetTaken" not in output
    assert "cannot have the subnet" not in output
    workers.wait_until_gone(30)


@pytest.mark.daemon("docker")
def test_ctrl_c_leaves_nothing_of_any_worker(workplace: Path) -> None:
    workers = Workplace(workplace, "docker")
    process = workers.start("-n", "3", body="time.sleep(60)")
    deadline = time.monotonic() + 60
    while not workers.said():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert workers.labs()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    workers.wait_until_gone(30)


@pytest.mark.daemon("docker")
def test_one_who_waits_says_for_whom(workplace: Path) -> None:
    workers = Workplace(workplace, "docker")
    first = workers.start("-s", tests=1, body="print('BUSY', flush=True); time.sleep(60)")
    try:
        wait_for_output(first, "BUSY")
        code = "import sys; sys.path.insert(0, '.')\n" + WAITING
        second = start(["-c", code], cwd=workplace, env=_environment(workplace))
        try:
            output = wait_for_output(second, "waiting for", 60)
            assert f"lab 'lan' (pid {first.pid}) which has {SUBNETS['docker']}" in output
            first.kill()
            wait_for_output(second, "UP", 60)
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()
    workers.wait_until_gone(30)


WAITING = """
from pytest_benchscale import Lab
from pytest_benchscale.lab.options import LabOptions

said = lambda line: print(line, flush=True)
with Lab.open_sync("lan.yaml", backend="docker", options=LabOptions(progress=said)):
    print("UP", flush=True)
"""


def _environment(place: Path) -> dict[str, str]:
    daemons = {k: v for k, v in os.environ.items() if k.startswith(DAEMONS)}
    return {**daemons, "BENCHSCALE_STATE_DIR": str(place / "state")}
