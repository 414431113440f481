"""What is measured of pytest itself: its memory with a lab up, and the plugin's start-up cost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from benchmarks.contestants import ContestantError
from benchmarks.jobs import Bench
from benchmarks.workers.ours import topology

NODES = 200
MIB = 2**20

WITHOUT = ("-p", "no:benchscale")
NO_DEPENDENCIES = ("-p", "no:asyncio", "-p", "no:anyio")
"""Without the plugins that our dependencies bring with them."""

MEASURE = """\
import json, os, pathlib

def kib(pid, file, key):
    for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0

def descendants(pid):
    yield pid
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))

def measure():
    tree = list(descendants(os.getpid()))
    result = {
        "rss": kib("self", "status", "VmRSS") * 1024,
        "pss": sum(kib(pid, "smaps_rollup", "Pss") for pid in tree) * 1024,
        "processes": len(tree),
    }
    pathlib.Path(os.environ["BENCHMARK_REPORT"]).write_text(json.dumps(result))
"""

WITH_A_LAB = """
import pytest

@pytest.mark.topology("lab.yaml", backend="local")
def test_with_a_lab(lab):
    measure()
"""

WITHOUT_ONE = """
def test_without_one():
    measure()
"""


def memory(bench: Bench) -> None:
    """Measure a pytest run with 200 nodes up, against the same run without a lab."""
    directory = bench.directory / "memory"
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "lab.yaml").write_text(topology(NODES))
    (directory / "test_lab.py").write_text(MEASURE + WITH_A_LAB)
    (directory / "test_none.py").write_text(MEASURE + WITHOUT_ONE)

    def turn() -> Mapping[str, Sequence[float]]:
        lab = _run_memory_test(directory, "test_lab.py")
        none = _run_memory_test(directory, "test_none.py")
        return {
            "memory.process": [(lab["rss"] - none["rss"]) / MIB],
            "memory.node": [(lab["pss"] - none["pss"]) / MIB / NODES],
        }

    bench.interleave("memory", min(bench.repeat, 3), {"ours": turn})


def _run_memory_test(directory: Path, test: str) -> dict[str, int]:
    report = directory / f"{test}.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [*NO_DEPENDENCIES, test]  # so that what they import counts as the lab's
    environment = {**os.environ, "BENCHMARK_REPORT": str(report)}
    run = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode:
        errors = [line for line in run.stdout.splitlines() if line.startswith(("E ", "ERROR"))]
        raise ContestantError((errors or run.stderr.splitlines() or ["pytest failed"])[0])
    result: dict[str, int] = json.loads(report.read_text())
    return result


def startup(bench: Bench) -> None:
    """Measure `pytest --collect-only` on an empty test with and without the plugin."""
    directory = bench.directory / "startup"
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_empty.py").write_text("def test_nothing():\n    pass\n")
    collect = ("--collect-only", "-q", "-p", "no:cacheprovider")
    variants = {
        ("startup.collect", "with"): collect,
        ("startup.collect", "without"): (*collect, *WITHOUT),
        ("startup.collect", "bare"): (*collect, *WITHOUT, *NO_DEPENDENCIES),
        ("startup.version", "with"): ("--version",),
        ("startup.version", "without"): ("--version", *WITHOUT),
    }
    for arguments in variants.values():
        _time_pytest(directory, arguments)  # the first run compiles
    for number in range(6 * bench.repeat):
        print(f"startup: round {number + 1} of {6 * bench.repeat}", file=sys.stderr)
        taken = {}
        for (row, variant), arguments in variants.items():
            taken[row, variant] = _time_pytest(directory, arguments)
            bench.results.add({row: [taken[row, variant].wall]}, variant)
        for row in ("startup.collect", "startup.version"):
            loaded, unloaded = taken[row, "with"], taken[row, "without"]
            added = {
                f"{row}.added": [loaded.wall - unloaded.wall],
                f"{row}.cpu": [loaded.cpu - unloaded.cpu],
            }
            bench.results.add(added, "ours")


class Taken(NamedTuple):
    """What a command took, in seconds: by the clock, and of processor time."""

    wall: float
    cpu: float


def _time_pytest(directory: Path, arguments: Sequence[str]) -> Taken:
    command = [sys.executable, "-m", "pytest", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    wall, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall, cpu)
