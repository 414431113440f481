"""What is on this machine, counted, so that a test can prove that it left nothing behind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_benchscale.lab.ledger import state_directory

__all__ = [
    "RUN",
    "Snapshot",
    "difference",
    "lab_processes",
    "processes_that",
    "wait_until_as_before",
]

# What a test run starts inherits this, so that it can tell its own processes from those of others.
_MARK = "BENCHSCALE_TEST_RUN"
RUN = {_MARK: f"{os.getpid()}-{os.urandom(4).hex()}"}
os.environ.update(RUN)
# In CI nobody else uses the machine: there, whatever is new is ours, with or without the mark.
_ALONE = bool(os.environ.get("CI"))

_PODMANS_STORE = re.compile(r" /\S*/podman-[0-9a-f]{8}/overlay ")  # of the tests' own podman
_OURS = "benchscale"
_DIRECTORIES = ("/tmp", "/var/tmp", "/run", "/dev/shm")
_OUR_FILES = (_OURS, "tmp")  # the second is what `tempfile` calls a file by itself


@dataclass(frozen=True)
class Snapshot:
    """Everything that a lab could leave: each entry is a line that tells what it is."""

    processes: frozenset[str] = field(default_factory=frozenset)
    namespaces: frozenset[str] = field(default_factory=frozenset)
    mounts: frozenset[str] = field(default_factory=frozenset)
    links: frozenset[str] = field(default_factory=frozenset)
    files: frozenset[str] = field(default_factory=frozenset)
    cgroups: frozenset[str] = field(default_factory=frozenset)
    labs: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def take(cls) -> Snapshot:
        """Look at the whole machine, not only at what carries our name.

        Where others may be using this project at the same moment, their labs are left out.
        """
        return cls(
            processes=frozenset(f"{pid} {name}" for pid, name in lab_processes(everybodys=_ALONE)),
            namespaces=frozenset(_namespaces() if _ALONE else ()),
            mounts=frozenset(_mounts()),
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            files=frozenset(_files()),
            cgroups=frozenset(_cgroups()),
            labs=frozenset(str(path) for path in (state_directory() / "labs").glob("*")),
        )


def _mounts() -> list[str]:
    """Return the mounts but for that of podman's store, which comes with its first container, and stays."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if not _PODMANS_STORE.search(line)]


def lab_processes(*, everybodys: bool = False) -> list[tuple[int, str]]:
    """Return number and name of the processes that hold labs, this run's or everybody's."""
    found = []
    for pid in _pids():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            ours = (
                everybodys
                or f"{_MARK}={RUN[_MARK]}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            )
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if ours and state != "Z" and (name.startswith(_OURS) or b"backends.local" in arguments):
            found.append((int(pid), name))
    return found


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _namespaces() -> list[str]:
    """Every namespace that any process is in; also catches a process that changed its name."""
    found = set()
    for pid in _pids():
        for kind in ("net", "pid", "mnt", "user", "uts", "ipc"):
            try:
                found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except OSError:
                continue  # gone, or another user's
    return sorted(found)


def _files() -> list[str]:
    found = []
    for directory in _DIRECTORIES:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found += [f"{directory}/{name}" for name in names if name.startswith(_OUR_FILES)]
    return found


def _cgroups() -> list[str]:
    # Unlike a glob, a walk bears what goes meanwhile.
    found = os.walk("/sys/fs/cgroup")
    return [f"{at}/{name}" for at, names, _ in found for name in names if name.startswith(_OURS)]


def difference(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """Return what is there now and was not before, by kind; empty when nothing is."""
    kinds = Snapshot.__dataclass_fields__
    new = {kind: sorted(getattr(after, kind) - getattr(before, kind)) for kind in kinds}
    return {kind: lines for kind, lines in new.items() if lines}


def wait_until_as_before(before: Snapshot, seconds: float = 10.0) -> dict[str, list[str]]:
    """Return what is left; the kernel removes a lab without us, so it gets a moment to finish."""
    deadline = time.monotonic() + seconds
    while True:
        left = difference(before, Snapshot.take())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def processes_that(matches: Callable[[list[bytes]], bool]) -> set[str]:
    """Return the processes whose words, as in argv, are such."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if matches(words):
            found.add(path.parent.name)
    return found
