"""`python -m benchmarks`: measures and prints the table. `benchmarks/run` does the set-up."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from benchmarks import (
    contestants,
    daemon,
    daemon_jobs,
    fault_jobs,
    jobs,
    pytest_jobs,
    ssh_jobs,
    sshd,
    units,
    upkeep_jobs,
    vm_jobs,
)
from benchmarks.contestants import Contestant, ContestantError
from benchmarks.daemon import Daemon
from benchmarks.daemon_jobs import DaemonBench
from benchmarks.jobs import Bench
from benchmarks.leftovers import Snapshot, adopt_orphans, new_objects, reap_orphans
from benchmarks.results import Results
from benchmarks.table import render
from benchmarks.targets import TARGETS

T = TypeVar("T")

LOCAL = "local"
LOCAL_JOBS: dict[str, Callable[[Bench], None]] = {
    "first": jobs.first,
    "up": jobs.up,
    "exec": jobs.execute,
    "copy": jobs.copy,
    "faults": fault_jobs.faults,
    "upkeep": upkeep_jobs.upkeep,
    "memory": pytest_jobs.memory,
    "startup": pytest_jobs.startup,
}
BACKENDS = (LOCAL, *units.BACKENDS)
ALL_JOBS = tuple(dict.fromkeys((*LOCAL_JOBS, *daemon_jobs.JOBS, *ssh_jobs.JOBS, *vm_jobs.JOBS)))
NAMES = tuple(dict.fromkeys((*contestants.FINDERS, *daemon.PEERS, *sshd.NAMES)))


def names_of(what: str, known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {what} named {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return names

    return parse


def positive(text: str) -> int:
    """Parse the value of --repeat."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("benchmarks/run", description="Measure beside the peers.")
    parser.add_argument(
        "--backend",
        type=names_of("backend", BACKENDS),
        default=[LOCAL],
        metavar="NAME,...",
        help=f"{', '.join(BACKENDS)} ({LOCAL})",
    )
    parser.add_argument(
        "--only",
        type=names_of("job", ALL_JOBS),
        default=list(ALL_JOBS),
        metavar="JOB,...",
        help=f"{', '.join(LOCAL_JOBS)}; of a container daemon: {', '.join(daemon_jobs.JOBS)}; "
        f"over ssh: {', '.join(ssh_jobs.JOBS)}; of virtual machines: {', '.join(vm_jobs.JOBS)}",
    )
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="rounds (5)")
    parser.add_argument(
        "--without",
        type=names_of("contestant", NAMES),
        default=[],
        metavar="NAME,...",
        help=", ".join(NAMES),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args()


def machine(daemons: Collection[Daemon]) -> str:
    """Return what the figures were measured on."""
    load = os.getloadavg()[0]
    text = (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, load {load:.1f}, "
        f"Python {platform.python_version()}, {'root' if os.geteuid() == 0 else 'ordinary user'}"
    )
    if daemons:
        text += f"\n{'; '.join(each.describe() for each in daemons)}\n{daemon.versions()}"
    return text


def connect(backends: Collection[str], results: Results) -> dict[str, Daemon]:
    """Return the daemons that can be measured, and note why others cannot."""
    daemons = {}
    for backend in backends:
        if backend in daemon.BACKENDS:
            try:
                daemons[backend] = daemon.connect(backend)
            except ContestantError as error:
                results.miss(backend, "ours", f"and its peers: {error}")
    return daemons


def measure(options: argparse.Namespace, daemons: dict[str, Daemon], results: Results) -> None:
    """Run the jobs; what they write is gone afterwards."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchscale-")))
        field = contestants.find(directory, options.without)
        janitor = None
        if "floor" in field.argv:
            janitor = stack.enter_context(Contestant("janitor", field.argv["floor"]))
        for backend in options.backend:
            place = directory / backend
            place.mkdir()
            bench = Bench(field, place, options.repeat, results, janitor)
            if backend == sshd.BACKEND:
                over_ssh(bench, options)
            elif backend in (LOCAL, vm_jobs.BACKEND):
                run(LOCAL_JOBS if backend == LOCAL else vm_jobs.JOBS, options.only, bench)
            elif backend in daemons:
                bench.field = daemon.find(daemons[backend], options.without)
                run(daemon_jobs.JOBS, options.only, DaemonBench(bench, daemons[backend]))


def run(by_name: Mapping[str, Callable[[T], None]], names: Collection[str], bench: T) -> None:
    """Run the jobs of these names, as far as there are any."""
    for name in names:
        if name in by_name:
            by_name[name](bench)


def over_ssh(bench: Bench, options: argparse.Namespace) -> None:
    """Run the jobs on an sshd."""
    try:
        with sshd.serving(bench.directory, options.without) as bench.field:
            run(ssh_jobs.JOBS, options.only, bench)
    except ContestantError as error:
        bench.results.miss(sshd.BACKEND, "ours", f"and its peers: {error}")


def main() -> None:
    """Measure what was asked for and print it; the verdicts are information, the exit code is 0."""
    options = arguments()
    # Set in some containers; compiling every module at every start is not what is measured here.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    adopt_orphans()
    results = Results()
    daemons = connect(options.backend, results)
    before = Snapshot.take()
    objects = {each.backend: each.objects() for each in daemons.values()}
    conditions = machine(daemons.values())
    if sshd.BACKEND in options.backend:
        conditions += f"\n{sshd.describe()}"
    measure(options, daemons, results)
    reap_orphans()
    left = before.compare(Snapshot.take())
    left += "".join(new_objects(each, objects[each.backend]) for each in daemons.values())
    print(conditions, render(results), left, sep="\n\n")
    if options.json:
        verdicts = ((target.row, target.verdict(results)) for target in TARGETS)
        reached = [f"{row}: {verdict}" for row, verdict in verdicts if verdict]
        report = {"machine": conditions, **asdict(results), "targets": reached}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
