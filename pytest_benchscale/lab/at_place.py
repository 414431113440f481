"""What is done with labs at one daemon, by a process that can be killed when that daemon hangs.

It is told what to do in one JSON object on its input, and answers with one for each lab, a line each, as
soon as it knows. The environment that leads to the daemon is its own: `LabRecord.place`.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Backend, OwnedThing
from pytest_benchscale.errors import BackendUnavailable, BenchscaleError
from pytest_benchscale.lab.ledger import Ledger

__all__ = ["Job", "JobLab", "main"]

_AT_ONCE = 4  # labs


@dataclass(frozen=True, slots=True)
class JobLab:
    """One lab of a job; `owner` is its run. `fd` is its locked record, None: nothing may be removed."""

    lab: str
    owner: str
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Look at these labs, and remove those whose record is handed over.

    `everybodys`: also tell of what carries our labels, whosever it is. `seconds` is the deadline for all.
    """

    backend: str
    ledger: str
    labs: tuple[JobLab, ...]
    everybodys: bool
    seconds: int

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Return the job that `to_json` made."""
        data = json.loads(text)
        return cls(**{**data, "labs": tuple(JobLab(**lab) for lab in data["labs"])})

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


def main() -> None:
    """Do the job that is on the standard input."""
    job = Job.from_json(sys.stdin.read())
    signal.alarm(job.seconds)  # whoever started this may be gone by then
    anyio.run(_do, job)


async def _do(job: Job) -> None:
    try:
        backend: Backend = registry.get(job.backend)()
        try:
            await backend.probe()
            if job.everybodys:
                things = await backend.list_owned(None)
                _tell(everybodys=[asdict(thing) for thing in things])
            limit = anyio.CapacityLimiter(_AT_ONCE)
            async with anyio.create_task_group() as group:
                for lab in job.labs:
                    group.start_soon(functools.partial(_lab, job, backend, lab, limit))
        finally:
            await backend.close()
    except BackendUnavailable as error:
        _tell(unavailable=error.reason)


async def _lab(job: Job, backend: Backend, lab: JobLab, limit: anyio.CapacityLimiter) -> None:
    """Look at one lab, remove it where that is asked for, and tell what came of it."""
    things: Sequence[OwnedThing] = ()
    async with limit:
        try:
            things = await _things(backend, lab)
            gone = await _remove(job, backend, lab) if lab.fd is not None else False
        except (BenchscaleError, OSError) as error:
            _tell(lab=lab.lab, things=_named(things), gone=False, error=_in_one_line(error))
        else:
            _tell(lab=lab.lab, things=_named(things), gone=gone, error=None)


async def _remove(job: Job, backend: Backend, lab: JobLab) -> bool:
    """Remove what a lab has; strike it off the ledger when nothing of it is there any more.

    Raises:
        BenchscaleError: something is left.
    """
    assert lab.fd is not None  # noqa: S101  for the type checker
    entry = Ledger(Path(job.ledger)).hold(lab.lab, lab.fd)
    if entry is None:
        raise BenchscaleError("its record in the ledger is not the one that was handed over")
    await backend.delete_owned(lab.owner, lab.lab)
    if left := await _things(backend, lab):
        names = ", ".join(f"{thing.kind} {thing.identifier}" for thing in left)
        raise BenchscaleError(f"still there: {names}")
    entry.strike()
    return True


async def _things(backend: Backend, lab: JobLab) -> Sequence[OwnedThing]:
    return [thing for thing in await backend.list_owned(lab.owner) if thing.lab_id == lab.lab]


def _named(things: Sequence[OwnedThing]) -> list[tuple[str, str]]:
    return [(thing.kind, thing.identifier) for thing in things]


def _in_one_line(error: Exception) -> str:
    return "; ".join(str(error).splitlines()) or type(error).__name__


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
