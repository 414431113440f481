"""Removing labs whose owner is dead: for `benchscale gc`, and for the watchdog, which runs this module.

    python -m pytest_benchscale.lab.reaper LAB... [--fd N]...

Each daemon has a process of its own and a deadline, so that one that hangs holds up no other, and each
finds it by the environment that is written down. A lab is struck off the ledger only when its backend sees
nothing of it any more; otherwise it stays there, for later.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_benchscale
from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.lab.at_place import Job, JobLab
from pytest_benchscale.lab.ledger import Entry, Ledger
from pytest_benchscale.lab.record import LabRecord

__all__ = ["LOOK_SECONDS", "REMOVE_SECONDS", "At", "Outcome", "look", "main", "reap"]

LOOK_SECONDS = 30
REMOVE_SECONDS = 120  # for all labs of one daemon, which may be slow after a crash
_GRACE = 5  # the child ends by itself at its deadline, unless it is frozen

# In the place of `-m`, which would look for modules in the current directory first.
_CHILD = "import sys; sys.path.append(sys.argv[1]); from pytest_benchscale.lab.at_place import main; main()"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a lab: all of it is `gone`, or `error` says why not. `things`: what it had, if known.

    `elsewhere`: it was left to another process, which has taken it meanwhile.
    """

    lab_id: str
    gone: bool
    error: str | None = None
    things: tuple[tuple[str, str], ...] = ()
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class At:
    """One daemon: the backend, and the environment by which it is found."""

    backend: str
    place: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, record: LabRecord) -> At:
        """Return where a lab is."""
        return cls(record.backend, tuple(sorted(record.place.items())))

    def __str__(self) -> str:
        where = ", ".join(f"{key}={value}" for key, value in self.place if value)
        return f"{self.backend} ({where})" if where else self.backend


@dataclass(slots=True)
class _Seen:
    """What a child has told."""

    labs: dict[str, Outcome] = field(default_factory=dict)
    everybodys: list[OwnedThing] = field(default_factory=list)
    error: str | None = None


def reap(entries: Iterable[Entry], ledger: Ledger) -> Iterator[Outcome]:
    """Remove labs whose records are ours; tell of each when its daemon is done with all of them.

    Lets go of the records.
    """
    held = {entry.record.lab_id: entry for entry in entries}
    places: dict[At, list[Entry]] = {}
    for entry in held.values():
        places.setdefault(At.of(entry.record), []).append(entry)
    jobs = {
        at: _job(at, ledger, [_of(one.record, one.fileno()) for one in those], REMOVE_SECONDS)
        for at, those in places.items()
    }
    try:
        for at, seen in _run(jobs):
            for entry in places[at]:
                lab_id = entry.record.lab_id
                why = seen.error or "nothing was told of it"
                yield seen.labs.get(lab_id, Outcome(lab_id, gone=False, error=why))
                entry.let_go()
    finally:
        for entry in held.values():
            entry.let_go()


def look(
    records: Iterable[LabRecord], ledger: Ledger, also: Iterable[At] = ()
) -> tuple[dict[str, Outcome], dict[At, list[OwnedThing]], dict[At, str]]:
    """Return what labs have, without changing anything; what any lab has at their daemons; and errors.

    `also` are daemons to look at though none of these labs is there.
    """
    places: dict[At, list[JobLab]] = {at: [] for at in also}
    for record in records:
        places.setdefault(At.of(record), []).append(_of(record, None))
    jobs = {
        at: _job(at, ledger, labs, LOOK_SECONDS, everybodys=True) for at, labs in places.items()
    }
    labs: dict[str, Outcome] = {}
    everybodys: dict[At, list[OwnedThing]] = {}
    errors: dict[At, str] = {}
    for at, seen in _run(jobs):
        labs |= seen.labs
        everybodys[at] = seen.everybodys
        if seen.error is not None:
            errors[at] = seen.error
    return labs, everybodys, errors


def main(argv: Sequence[str] | None = None) -> int:
    """Remove the labs that are named; return 0 when all of them are gone, else 1."""
    parser = argparse.ArgumentParser(prog="python -m pytest_benchscale.lab.reaper")
    parser.add_argument("labs", nargs="+", metavar="LAB")
    parser.add_argument(
        "--fd",
        action="append",
        type=int,
        metavar="N",
        help="the open and locked record of each lab, in the same order; without, each is locked here",
    )
    options = parser.parse_intermixed_args(argv)
    if options.fd is not None and len(options.fd) != len(options.labs):
        parser.error("there must be one --fd for each LAB, or none")
    ledger, entries, failed = Ledger(), [], False
    for lab_id, descriptor in zip(
        options.labs, options.fd or [None] * len(options.labs), strict=True
    ):
        entry = ledger.take(lab_id) if descriptor is None else ledger.hold(lab_id, descriptor)
        if entry is not None:
            entries.append(entry)
        elif ledger.knows(lab_id):
            failed = True
            print(f"{lab_id}: left alone: somebody else has it, or its record cannot be read")
    for outcome in reap(entries, ledger):
        failed |= not outcome.gone
        print(f"{outcome.lab_id}: {'removed' if outcome.gone else f'is left: {outcome.error}'}")
    return int(failed)


def _of(record: LabRecord, descriptor: int | None) -> JobLab:
    return JobLab(record.lab_id, record.owner, descriptor)


def _job(
    at: At, ledger: Ledger, labs: Sequence[JobLab], seconds: int, *, everybodys: bool = False
) -> Job:
    return Job(at.backend, str(ledger.directory), tuple(labs), everybodys, seconds)


def _run(jobs: Mapping[At, Job]) -> Iterator[tuple[At, _Seen]]:
    """Do jobs, all at once; yield each with what came of it, in their order."""
    if jobs:
        with ThreadPoolExecutor(len(jobs)) as threads:
            yield from zip(jobs, threads.map(_do, jobs, jobs.values()), strict=True)


def _do(at: At, job: Job) -> _Seen:
    """Have a child do a job."""
    package = Path(pytest_benchscale.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(at.place),
        pass_fds=[lab.fd for lab in job.labs if lab.fd is not None],
        start_new_session=True,  # so that what it has started ends with it; and Ctrl-C is not for it
    )
    late = None
    try:
        output, complaint = child.communicate(job.to_json(), timeout=job.seconds + _GRACE)
    except subprocess.TimeoutExpired:
        late = "timeout"
        os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        output, complaint = child.communicate()
    seen = _read(output)
    if late or child.returncode == -signal.SIGALRM:
        seen.error = f"its daemon did not do it in {job.seconds} s"
    elif child.returncode:
        last = complaint.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        seen.error = f"the process that should do it failed: {last[0]}"
    return seen


def _read(output: str) -> _Seen:
    seen = _Seen()
    for line in output.splitlines():
        try:
            facts: dict[str, Any] = json.loads(line)
        except (
            ValueError
        ):  # it was killed in the middle, or somebody's library has printed something
            continue
        if "lab" in facts:
            things = tuple((kind, identifier) for kind, identifier in facts["things"])
            lab_id = facts["lab"]
            seen.labs[lab_id] = Outcome(lab_id, facts["gone"], facts["error"], things)
        elif "everybodys" in facts:
            seen.everybodys = [OwnedThing(**thing) for thing in facts["everybodys"]]
        elif "unavailable" in facts:
            seen.error = facts["unavailable"]
    return seen


if __name__ == "__main__":
    sys.exit(main())
