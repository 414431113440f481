"""What is measured on a container daemon; rows begin with the backend's name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep

from benchmarks.contestants import Contestant, ContestantError
from benchmarks.daemon import CONTESTANTS, FLOOR, UPKEEP, Daemon
from benchmarks.footprint import Footprint, containers_of, twins
from benchmarks.jobs import BURST, Bench, Turn, one_node, payloads

SIZES = (2, 10, 50)
EVERYWHERE = 50
"""On how many nodes `true` runs at once; one of SIZES."""

EXEC_SAMPLES = 100
IDLE_NODES = 10
UPKEPT_NODES = 10

REST_SECONDS = 2.0  # as long as a test that has its machines work, or a session that begins
IDLE_SECONDS = 6.0
"""After that a node counts as idle: what it keeps for a moment after a command is gone."""

Samples = Mapping[str, Sequence[float]]


@dataclass
class DaemonBench:
    """A bench on one daemon."""

    bench: Bench
    daemon: Daemon

    @property
    def backend(self) -> str:
        return self.daemon.backend

    @contextmanager
    def start(self, job: str, *names: str) -> Iterator[dict[str, Contestant]]:
        """Run these contestants' workers; whoever failed has left something, which is removed."""
        try:
            with self.bench.start(job, *names) as contestants:
                yield contestants
        finally:
            left = self.daemon.sweep()
        if left:
            self.bench.results.miss(job, "removed", f"what peers had left: {', '.join(left)}")


def up(on: DaemonBench) -> None:
    """Measure idle nodes on one network, up and down; and `true` on all of the largest lab at once."""
    job, backend = f"{on.backend} up", on.backend

    def warm_up(contestant: Contestant) -> Samples:
        contestant.ask("up", 2)
        contestant.ask("down")
        return {}

    def turn(contestant: Contestant, nodes: int) -> Samples:
        measured = {f"{backend}.up.{nodes}": contestant.ask("up", nodes)}
        if nodes == EVERYWHERE:
            measured[f"{backend}.everywhere.{nodes}"] = contestant.ask("everywhere")
        measured[f"{backend}.down.{nodes}"] = contestant.ask("down")
        return measured

    with on.start(job, *CONTESTANTS) as contestants:
        on.bench.interleave(job, 1, {n: partial(warm_up, c) for n, c in contestants.items()})
        for nodes in SIZES:
            turns = {n: partial(turn, c, nodes) for n, c in contestants.items()}
            on.bench.interleave(job, on.bench.repeat, turns)


def execute(on: DaemonBench) -> None:
    """Measure `true`: the first in a new lab, 50 at once in a new lab, and both in one that has run some."""
    job, backend = f"{on.backend} exec", on.backend

    def turn(contestant: Contestant) -> Samples:
        contestant.ask("up", 1)
        first = contestant.ask("exec", 1)
        contestant.ask("down")
        contestant.ask("up", 1)
        cold = contestant.ask("burst", BURST)
        measured = {
            f"{backend}.exec.first": first,
            f"{backend}.exec": contestant.ask("exec", max(1, EXEC_SAMPLES // on.bench.repeat)),
            f"{backend}.exec.{BURST}.cold": cold,
            f"{backend}.exec.{BURST}": contestant.ask("burst", BURST),
        }
        contestant.ask("down")
        return measured

    with on.start(job, *(name for name in CONTESTANTS if name != FLOOR)) as contestants:
        turns = {name: partial(turn, contestant) for name, contestant in contestants.items()}
        on.bench.interleave(job, on.bench.repeat, turns)


def copy(on: DaemonBench) -> None:
    """Measure files into a node, and many small ones out again."""
    job, backend, remote = f"{on.backend} copy", on.backend, "/srv/benchscale-copy"
    landing = on.bench.directory / "copied-out"
    verbs = {
        "ours": ("ours", "put", "get"),
        "docker cp": ("cli", "put", "get"),
        "tar": ("cli", "tar_in", "tar_out"),
        "sdk": ("sdk", "put", "get"),
    }

    def turn(worker: Contestant, put: str, get: str, row: str, local: Path) -> Samples:
        measured = {f"{backend}.{row}": worker.ask(put, local, remote)}
        if local.is_dir():
            measured[f"{backend}.{row}.out"] = worker.ask(get, remote, landing)
            count = sum(1 for path in landing.rglob("*") if path.is_file())
            shutil.rmtree(landing)
            if count != sum(1 for path in local.rglob("*") if path.is_file()):
                raise ContestantError(f"{count} files came out")
        worker.ask("remove", remote)
        return measured

    with (
        on.start(job, "ours", "cli", "sdk") as contestants,
        one_node(on.bench, job, contestants) as ready,
    ):
        for row, local in payloads(on.bench.directory).items():
            turns: dict[str, Turn] = {
                name: partial(turn, ready[worker], put, get, row, local)
                for name, (worker, put, get) in verbs.items()
                if worker in ready
            }
            on.bench.interleave(job, on.bench.repeat, turns)


def memory(on: DaemonBench) -> None:
    """Measure what idle nodes of ours have running that containers without us have not."""
    job, backend = f"{on.backend} memory", on.backend

    def turn(contestant: Contestant) -> Samples:
        contestant.ask("up", IDLE_NODES)
        contestant.ask("everywhere")
        with on.daemon.client() as client:
            containers = containers_of(client, contestant.process.pid)
            with twins(client, containers, on.daemon.run) as others:
                sleep(IDLE_SECONDS)
                ours = Footprint.of([container.id for container in containers])
                without = Footprint.of([container.id for container in others])
        contestant.ask("down")
        return {
            f"{backend}.memory.processes": [(ours.processes - without.processes) / IDLE_NODES],
            f"{backend}.memory.pool": [(ours.mebibytes - without.mebibytes) / IDLE_NODES],
        }

    with on.start(job, "ours") as contestants:
        turns = {name: partial(turn, contestant) for name, contestant in contestants.items()}
        on.bench.interleave(job, min(on.bench.repeat, 3), turns)


def upkeep(on: DaemonBench) -> None:
    """Measure leading a lab back beside building it anew, and taking a kept one over beside building it."""
    job, backend, nodes = f"{on.backend} upkeep", on.backend, UPKEPT_NODES

    def turn(contestant: Contestant) -> Samples:
        measured = {}
        for rest, when in ((REST_SECONDS, ""), (0, ".at-once")):
            for setup, kind in (("0", "plain"), ("1", "setup")):
                for verb in ("rebuild", "reset"):
                    row = f"{backend}.{verb}.{nodes}.{kind}{when}"
                    measured[row] = contestant.ask(verb, nodes, setup, rest)
            measured[f"{backend}.build.{nodes}{when}"] = contestant.ask("build", nodes)
            measured[f"{backend}.reuse.{nodes}{when}"] = contestant.ask("reuse", rest)
        return measured

    with on.start(job, UPKEEP) as contestants:
        if UPKEEP in contestants:
            turns = {"ours": partial(turn, contestants[UPKEEP])}
            for _ in range(on.bench.repeat):  # each is long, and nobody else waits
                on.bench.interleave(job, 1, turns)


JOBS = {"upkeep": upkeep, "up": up, "exec": execute, "copy": copy, "memory": memory}
