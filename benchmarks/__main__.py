"""`python -m benchmarks`: measures and prints the table. `benchmarks/run` does the set-up."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks import jobs, pytest_jobs
from benchmarks.contestants import FINDERS, Contestant, find
from benchmarks.jobs import Bench
from benchmarks.leftovers import Snapshot, adopt_orphans, reap_orphans
from benchmarks.results import Results
from benchmarks.table import TARGETS, render

JOBS = {
    "first": jobs.first,
    "up": jobs.up,
    "exec": jobs.execute,
    "copy": jobs.copy,
    "memory": pytest_jobs.memory,
    "startup": pytest_jobs.startup,
}


def job_names(text: str) -> list[str]:
    """Parse the value of --only."""
    names = text.split(",")
    unknown = [name for name in names if name not in JOBS]
    if unknown:
        known = ", ".join(JOBS)
        raise argparse.ArgumentTypeError(f"no job named {', '.join(unknown)}; there are {known}")
    return names


def contestant_names(text: str) -> list[str]:
    """Parse the value of --without."""
    names = text.split(",")
    unknown = [name for name in names if name not in FINDERS]
    if unknown:
        known = ", ".join(FINDERS)
        raise argparse.ArgumentTypeError(f"nobody is named {', '.join(unknown)}; there are {known}")
    return names


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
        "--only", type=job_names, default=list(JOBS), metavar="JOB,...", help=", ".join(JOBS)
    )
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="rounds (5)")
    parser.add_argument(
        "--without", type=contestant_names, default=[], metavar="NAME,...", help=", ".join(FINDERS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args()


def machine() -> str:
    """Return what the figures were measured on."""
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, load {load:.1f}, "
        f"Python {platform.python_version()}, {'root' if os.geteuid() == 0 else 'ordinary user'}"
    )


def measure(names: list[str], without: list[str], repeat: int) -> Results:
    """Run the jobs; what they write is gone afterwards."""
    results = Results()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchscale-")))
        field = find(directory, without)
        janitor = None
        if "floor" in field.argv:
            janitor = stack.enter_context(Contestant("janitor", field.argv["floor"]))
        bench = Bench(field, directory, repeat, results, janitor)
        for name in names:
            JOBS[name](bench)
    return results


def main() -> None:
    """Measure what was asked for and print it; the verdicts are information, the exit code is 0."""
    options = arguments()
    # Set in some containers; compiling every module at every start is not what is measured here.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    adopt_orphans()
    before = Snapshot.take()
    conditions = machine()
    results = measure(options.only, options.without, options.repeat)
    reap_orphans()
    print(conditions, render(results), before.compare(Snapshot.take()), sep="\n\n")
    if options.json:
        verdicts = [target.verdict(results) for target in TARGETS]
        report = {"machine": conditions, **asdict(results), "targets": verdicts}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
