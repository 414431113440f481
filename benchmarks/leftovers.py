"""What the machine has of processes, namespaces, mounts and links: before a run, and after."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.daemon import Daemon

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def adopt_orphans() -> None:
    """Become the parent of whatever our workers leave behind, so that it can be seen as theirs."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Take leave of the adopted that have ended: they are no longer there."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


@dataclass(frozen=True)
class Snapshot:
    """What is there. `processes` are descendants of this one, the rest is the whole machine's."""

    processes: frozenset[str]
    network_namespaces: frozenset[str]
    mounts: frozenset[str]
    links: frozenset[str]
    temporary_files: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        """Look at the machine as it is now."""
        return cls(
            processes=frozenset(_descendants(os.getpid())),
            network_namespaces=frozenset(_network_namespaces()),
            mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
            links=_names("/sys/class/net"),
            temporary_files=_names(tempfile.gettempdir()),
        )

    def compare(self, after: Snapshot) -> str:
        """Return the counts before and after, and the names of what is new."""
        lines = ["left on the machine           before   after   new"]
        for kind in (each.name for each in fields(self)):
            old, new = getattr(self, kind), getattr(after, kind)
            added = _some(sorted(new - old))
            lines.append(f"    {kind.replace('_', ' '):<24}{len(old):>8}{len(new):>8}   {added}")
        return "\n".join(lines)


def new_objects(daemon: Daemon, before: frozenset[str]) -> str:
    """Return a line for what a daemon has: the counts before and after, and the names of what is new."""
    after = daemon.objects()
    return (
        f"\n    {daemon.backend + ' objects':<24}{len(before):>8}{len(after):>8}"
        f"   {_some(sorted(after - before))}"
    )


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:100] for name in names[:5]) + more or "nothing"


def _descendants(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            name = Path(f"/proc/{child}/comm").read_text().strip()
            yield f"{child} ({name})"
            yield from _descendants(int(child))


def _names(directory: str) -> frozenset[str]:
    return frozenset(path.name for path in Path(directory).iterdir())


def _network_namespaces() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            yield str(process.readlink())
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue  # it has ended, or is another user's
