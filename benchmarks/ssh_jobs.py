"""What is measured over ssh; rows begin with `ssh`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.jobs import BURST, Bench, Turn, one_node, payloads
from benchmarks.sshd import NAMES

EXEC_SAMPLES = 100

Samples = Mapping[str, Sequence[float]]


def execute(bench: Bench) -> None:
    """Measure `true`: one after the other, and many at once."""

    def turn(contestant: Contestant) -> Samples:
        return {
            "ssh.exec": contestant.ask("exec", max(1, EXEC_SAMPLES // bench.repeat)),
            f"ssh.exec.{BURST}": contestant.ask("burst", BURST),
        }

    with (
        bench.start("ssh exec", *NAMES) as contestants,
        one_node(bench, "ssh exec", contestants) as ready,
    ):
        turns = {name: partial(turn, contestant) for name, contestant in ready.items()}
        bench.interleave("ssh exec", bench.repeat, turns)


def copy(bench: Bench) -> None:
    """Measure files into a machine."""
    remote = "/srv/benchscale-copy"
    verbs = {
        "ours": ("ours", "put"),
        "scp": ("openssh", "scp"),
        "tar": ("openssh", "tar"),
        "sftp": ("asyncssh", "sftp"),
    }

    def turn(worker: Contestant, verb: str, row: str, local: Path) -> Samples:
        measured = {f"ssh.{row}": worker.ask(verb, local, remote)}
        worker.ask("remove", remote)
        return measured

    with (
        bench.start("ssh copy", *NAMES) as contestants,
        one_node(bench, "ssh copy", contestants) as ready,
    ):
        for row, local in payloads(bench.directory).items():
            turns: dict[str, Turn] = {
                name: partial(turn, ready[worker], verb, row, local)
                for name, (worker, verb) in verbs.items()
                if worker in ready
            }
            bench.interleave("ssh copy", bench.repeat, turns)


JOBS = {"exec": execute, "copy": copy}
