"""Ending a command with all it started, from inside its container or from the daemon's machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

from pytest_benchscale.transports.container.agent import MARKER

__all__ = ["DENIED", "KILL", "kill_on_this_machine", "marked"]

DENIED = 3
"""The exit code of `KILL` when a process is left that its user may not kill."""

# Needs nothing but a shell's builtins. A process belongs to the command when it is the command, or its
# parent belongs, or it holds one of the session's outputs, or has the command's mark in its environment.
# Everything found is stopped first, so that no child can lose its parent, and killed when a look finds no
# more; all over again until there is nothing to be found.
KILL = f"""\
root=$1 shell=$2 agent=$3 mark=$4
try() {{
case $family in *" $p "*) return ;; esac
case " 1 $$ $PPID $shell $agent " in *" $p "*) return ;; esac
IFS= read -r s <"/proc/$p/stat" || return
s=${{s##*) }}
set -- $s
case $1 in Z|X) return ;; esac
mine=
case "$family" in *" $2 "*) mine=1 ;; esac
[ "$p" = "$root" ] && mine=1
if [ -z "$mine" ]; then
for f in /proc/$p/fd/*; do
if [ "$f" -ef "/proc/$agent/fd/4" ] || [ "$f" -ef "/proc/$agent/fd/5" ]; then mine=1; break; fi
done
fi
if [ -z "$mine" ]; then
while IFS= read -r e || [ -n "$e" ]; do
case $e in *"{MARKER}=$mark"*) mine=1; break ;; esac
done <"/proc/$p/environ"
fi
[ -n "$mine" ] || return
kill -s STOP "$p" || denied=1
family="$family$p " more=1
}}
exec 2>/dev/null
while :; do
family=' ' denied=
more=1
while [ -n "$more" ]; do
more=
for d in /proc/[0-9]*; do p=${{d#/proc/}}; try; done
done
[ "$family" = ' ' ] && exit 0
for p in $family; do kill -s KILL "$p"; done
[ -n "$denied" ] && exit {DENIED}
done
"""

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
