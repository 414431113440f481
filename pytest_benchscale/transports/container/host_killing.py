"""Ending a command in a container with all it started, from the daemon's machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

from pytest_benchscale.transports.shell.agent import MARKER

__all__ = ["kill_on_this_machine", "marked"]

_PAUSE = 0.002  # seconds for killed processes to be gone


def kill_on_this_machine(marker: str, *, deadline: float) -> bool:
    """Kill what has a command's mark in its environment, with its descendants; return whether all are gone.

    For a container whose processes this machine shows. `deadline` is a time of `time.monotonic`. Blocks.
    """
    known: set[int] = set()
    while time.monotonic() < deadline:
        found: set[int] = set()
        while (
            more := marked(marker, known | found) - found
        ):  # stopped, so that none can go on forking
            _signal(more, signal.SIGSTOP)
            found |= more
        if not found:
            return True
        _signal(found, signal.SIGKILL)
        known |= found
        time.sleep(_PAUSE)
    return False


def marked(marker: str, known: Set[int] = frozenset()) -> set[int]:
    """Return the living processes that belong to a command, among those of containers.

    They have its mark, descend from those that have it or from known ones, or, in the same PID
    namespace, hold an output of one of these. What is in our own PID namespace is in no container: a
    daemon may have thousands of processes there.
    """
    mark = f"{MARKER}={marker}".encode()
    contained = _contained()
    found: set[int] = set()
    for process in contained:
        with suppress(OSError):
            entry = Path(f"/proc/{process}")
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            if int(parent) in known | found or mark in (entry / "environ").read_bytes():
                found.add(process)
    outputs = {(contained[one], pipe) for one in found for pipe in _pipes(one, ("1", "2"))}
    namespaces = {namespace for namespace, _ in outputs}
    for process, namespace in contained.items():
        holds = namespace in namespaces and any(
            (namespace, pipe) in outputs for pipe in _pipes(process)
        )
        if holds:
            found.add(process)
    return found


def _contained() -> dict[int, str]:
    """Return the processes that are in another PID namespace than we are, each with that."""
    ours = _target("/proc/self/ns/pid")
    contained: dict[int, str] = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(OSError):
                    namespace = _target(f"/proc/{entry.name}/ns/pid")
                    if namespace != ours:
                        contained[int(entry.name)] = namespace
    return contained


def _pipes(process: int, descriptors: Iterable[str] | None = None) -> set[str]:
    """Return the pipes among a process's descriptors, of all or of these."""
    pipes: set[str] = set()
    directory = f"/proc/{process}/fd"
    with suppress(OSError):
        if descriptors is None:
            with os.scandir(directory) as entries:
                descriptors = [entry.name for entry in entries]
        for descriptor in descriptors:
            with suppress(OSError):
                target = _target(f"{directory}/{descriptor}")
                if target.startswith("pipe:"):
                    pipes.add(target)
    return pipes


def _target(link: str) -> str:
    return os.readlink(link)  # noqa: PTH115  of thousands, where a Path takes twice as long


def _signal(processes: Set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
