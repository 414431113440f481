"""What containers have running on this machine: processes, and their share of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import ContestantError
from benchmarks.workers.peer import LABEL

OWNER = "benchscale.pid"  # our label that says which process a container belongs to


@dataclass(frozen=True)
class Footprint:
    """All processes that are in these containers or serve one of them; memory as PSS, in MiB."""

    processes: int
    mebibytes: float

    @classmethod
    def of(cls, containers: Sequence[str]) -> Footprint:
        """Look for the processes: by their cgroup, or the container's id in their command line.

        Raises:
            ContestantError: there are fewer processes than containers.
        """
        processes, kibibytes = 0, 0
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                about = (entry / "cgroup").read_bytes() + (entry / "cmdline").read_bytes()
                if any(container.encode() in about for container in containers):
                    kibibytes += _pss(entry)
                    processes += 1
        if processes < len(containers):
            raise ContestantError("the daemon's processes are not to be seen on this machine")
        return cls(processes, kibibytes / 1024)


def _pss(process: Path) -> int:
    """Return a process's proportional share of memory, in KiB."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def containers_of(client: Any, pid: int) -> list[Any]:
    """Return the containers of a process's labs."""
    found: list[Any] = client.containers.list(filters={"label": f"{OWNER}={pid}"})
    if not found:
        raise ContestantError(f"no container has the label {OWNER}={pid}")
    return found


@contextmanager
def twins(client: Any, containers: Sequence[Any], run: str) -> Iterator[list[Any]]:
    """Run containers that are configured as others are, and in which nobody has run a command."""
    made: list[Any] = []
    try:
        for container in containers:
            config, host = container.attrs["Config"], container.attrs["HostConfig"]
            made.append(
                client.containers.run(
                    config["Image"],
                    config["Cmd"],
                    entrypoint=config["Entrypoint"],
                    init=host.get("Init"),
                    network_mode="none",
                    labels={LABEL: run},
                    detach=True,
                )
            )
        yield made
    finally:
        for container in made:
            container.remove(force=True, v=True)
