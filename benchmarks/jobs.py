"""What is measured. In every job the contestants take turns, round after round."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

from benchmarks.contestants import Contestant, ContestantError, Field
from benchmarks.results import Results

SIZES = (2, 10, 50, 200)
BURST = 50
EXEC_SAMPLES = 200

PATIENCE = 60.0
"""A contestant that has used this many seconds in one row sits out the remaining rounds."""

Turn = Callable[[], Mapping[str, Sequence[float]]]
"""One measurement: returns samples by row."""


@dataclass
class Bench:
    """What the jobs share. `directory` is theirs to write in; `janitor` is an empty floor."""

    field: Field
    directory: Path
    repeat: int
    results: Results
    janitor: Contestant | None

    @contextmanager
    def start(self, job: str, *names: str) -> Iterator[dict[str, Contestant]]:
        """Run these contestants' workers and note who is missing."""
        self.present(job, *names)
        with self.field.start(*names) as contestants:
            yield contestants
        self.settle()

    def present(self, job: str, *names: str) -> list[str]:
        """Return which of these contestants are there, and note who is missing."""
        for name in names:
            if name in self.field.absent:
                self.results.miss(job, name, self.field.absent[name])
        return [name for name in names if name in self.field.argv]

    def interleave(self, job: str, rounds: int, turns: Mapping[str, Turn]) -> None:
        """Let each take its turn, `rounds` times; who fails is out, who is slow stops early."""
        spent = dict.fromkeys(turns, 0.0)
        for number in range(rounds):
            for name, turn in turns.items():
                if spent[name] > PATIENCE:
                    continue
                print(f"{job}: round {number + 1} of {rounds}, {name}", file=sys.stderr)
                start = perf_counter()
                try:
                    self.results.add(turn(), name)
                except ContestantError as error:
                    print(f"{job}: {name} failed: {error}", file=sys.stderr)
                    self.results.miss(job, name, f"failed: {error}")
                    spent[name] = float("inf")
                spent[name] += perf_counter() - start
                self.settle()

    def settle(self) -> None:
        """Wait until the kernel has freed what the last turn left to it, not to burden the next."""
        if self.janitor:
            self.janitor.ask("settle")
        else:
            sleep(1)


def first(bench: Bench) -> None:
    """Measure the first lab of a process: the imports that it causes are part of it."""

    def turn(name: str) -> Mapping[str, Sequence[float]]:
        with bench.field.start(name) as contestants:
            measured = {"first.2": contestants[name].ask("up", 2)}
            contestants[name].ask("down")
        return measured

    present = bench.present("first", "ours", "mininet", "munet")
    bench.interleave("first", bench.repeat, {name: partial(turn, name) for name in present})


def up(bench: Bench) -> None:
    """Measure idle nodes on one network, up and down."""

    def warm_up(contestant: Contestant) -> Mapping[str, Sequence[float]]:
        contestant.ask("up", 2)
        contestant.ask("down")
        return {}

    def turn(contestant: Contestant, nodes: int) -> Mapping[str, Sequence[float]]:
        return {
            f"up.{nodes}": contestant.ask("up", nodes),
            f"down.{nodes}": contestant.ask("down"),
        }

    with bench.start("up", "ours", "floor", "mininet", "munet") as contestants:
        bench.interleave("up", 1, {n: partial(warm_up, c) for n, c in contestants.items()})
        for nodes in SIZES:
            turns = {n: partial(turn, c, nodes) for n, c in contestants.items()}
            bench.interleave("up", bench.repeat, turns)


def execute(bench: Bench) -> None:
    """Measure `true` in a node of a lab of one: one after the other, and many at once."""

    def turn(contestant: Contestant) -> Mapping[str, Sequence[float]]:
        return {
            "exec": contestant.ask("exec", max(1, EXEC_SAMPLES // bench.repeat)),
            f"exec.{BURST}": contestant.ask("burst", BURST),
        }

    with (
        bench.start("exec", "ours", "floor", "nsenter", "mininet", "munet") as contestants,
        one_node(bench, "exec", contestants) as ready,
    ):
        turns = {name: partial(turn, contestant) for name, contestant in ready.items()}
        bench.interleave("exec", bench.repeat, turns)


def copy(bench: Bench) -> None:
    """Measure files into a node: `put`, tar through nsenter, and cp through /proc/PID/root."""
    remote = "/srv/benchscale-in"
    verbs = {"ours": ("ours", "put"), "floor": ("nsenter", "copy"), "tar": ("nsenter", "put")}

    def turn(contestant: Contestant, verb: str, row: str, local: Path) -> Mapping[str, list[float]]:
        seconds = contestant.ask(verb, local, remote)
        contestant.ask("remove", remote)
        return {row: seconds}

    with (
        bench.start("copy", "ours", "floor", "nsenter") as contestants,
        one_node(bench, "copy", contestants) as ready,
    ):
        for row, local in payloads(bench.directory).items():
            turns: dict[str, Turn] = {
                name: partial(turn, ready[worker], verb, row, local)
                for name, (worker, verb) in verbs.items()
                if worker in ready
            }
            bench.interleave("copy", bench.repeat, turns)


@contextmanager
def one_node(
    bench: Bench, job: str, contestants: Mapping[str, Contestant]
) -> Iterator[dict[str, Contestant]]:
    """Bring every contestant's lab up; nsenter has none of its own and uses the floor's."""
    ready: dict[str, Contestant] = {}
    for name, contestant in contestants.items():
        try:
            if name != "nsenter":
                contestant.ask("up", 1)
            elif "floor" in ready:
                contestant.ask("target", int(ready["floor"].ask("pid")[0]))
            else:
                bench.results.miss(job, name, "not available: it needs the floor's node")
                continue
        except ContestantError as error:
            bench.results.miss(job, name, f"failed: {error}")
        else:
            ready[name] = contestant
    yield ready
    for name, contestant in ready.items():
        try:
            if name != "nsenter":
                contestant.ask("down")
        except ContestantError as error:
            bench.results.miss(job, name, f"failed: {error}")


def payloads(directory: Path) -> dict[str, Path]:
    """Make what is copied, by row: 1 MiB, 100 MiB, and ten folders of 100 files of 1 KiB."""
    megabyte, hundred, tree = (directory / name for name in ("1MiB", "100MiB", "files"))
    megabyte.write_bytes(os.urandom(2**20))
    hundred.write_bytes(os.urandom(100 * 2**20))
    for folder in range(10):
        (tree / str(folder)).mkdir(parents=True)
        for number in range(100):
            (tree / str(folder) / str(number)).write_bytes(os.urandom(2**10))
    return {"copy.1MiB": megabyte, "copy.100MiB": hundred, "copy.files": tree}
