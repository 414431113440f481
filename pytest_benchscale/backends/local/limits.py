"""Memory and processor limits of nodes by control groups, where those are ours to make.

A lab has one group, with one below it for each node with limits. Control groups are the one thing of
a lab that the kernel does not remove with its processes; the launcher, which outlives them, does.
Version 1 and version 2 hierarchies: Documentation/admin-guide/cgroup-v1 and cgroup-v2 of the kernel.
"""

from __future__ import annotations

import contextlib
import os

_PERIOD_US = 100_000  # over which a share of the processors is counted


class Limits:
    """The control groups of one lab. Nothing is made before the first `apply`."""

    def __init__(self, name: str, *, memory: str | None, cpu: str | None, unified: bool) -> None:
        self._memory = f"{memory}/{name}" if memory else None
        self._cpu = f"{cpu}/{name}" if cpu else None
        self._unified = unified

    @classmethod
    def find(cls, name: str) -> Limits:
        """Find out which controllers this process may use."""
        v1, v2 = _hierarchies()
        memory, cpu = v1.get("memory"), v1.get("cpu")
        if v2 and not (memory or cpu):
            controllers = _read(f"{v2}/cgroup.subtree_control").split()
            memory = v2 if "memory" in controllers else None
            cpu = v2 if "cpu" in controllers else None
            return cls(name, memory=_writable(memory), cpu=_writable(cpu), unified=True)
        return cls(name, memory=_writable(memory), cpu=_writable(cpu), unified=False)

    @property
    def enforces_memory(self) -> bool:
        """Whether memory can be limited here."""
        return self._memory is not None

    @property
    def enforces_cpu(self) -> bool:
        """Whether processors can be limited here."""
        return self._cpu is not None

    def apply(self, node: str, pid: int, memory_mb: float | None, vcpus: float | None) -> None:
        """Put a node's first process under its limits, and so all that it will start.

        Raises:
            OSError: the kernel refuses a value.
        """
        if memory_mb is not None and self._memory is not None:
            group = self._group(self._memory, node)
            size = str(int(memory_mb * 1024 * 1024))
            _write(f"{group}/{'memory.max' if self._unified else 'memory.limit_in_bytes'}", size)
            swap = "memory.swap.max" if self._unified else "memory.memsw.limit_in_bytes"
            with contextlib.suppress(FileNotFoundError):  # a kernel that does not count swap
                _write(f"{group}/{swap}", "0" if self._unified else size)
            _write(f"{group}/cgroup.procs", str(pid))
        if vcpus is not None and self._cpu is not None:
            group = self._group(self._cpu, node)
            quota = int(vcpus * _PERIOD_US)
            if self._unified:
                _write(f"{group}/cpu.max", f"{quota} {_PERIOD_US}")
            else:
                _write(f"{group}/cpu.cfs_period_us", str(_PERIOD_US))
                _write(f"{group}/cpu.cfs_quota_us", str(quota))
            _write(f"{group}/cgroup.procs", str(pid))

    def remove(self) -> None:
        """Remove the groups; their processes are gone."""
        for lab in {self._memory, self._cpu} - {None}:
            if lab is None or not os.path.isdir(lab):
                continue
            for name in os.listdir(lab):
                if os.path.isdir(f"{lab}/{name}"):
                    os.rmdir(f"{lab}/{name}")
            os.rmdir(lab)

    def _group(self, lab: str, node: str) -> str:
        group = f"{lab}/{node}"
        if not os.path.isdir(lab):
            os.mkdir(lab)
            if self._unified:
                _write(f"{lab}/cgroup.subtree_control", "+memory +cpu")
        os.makedirs(group, exist_ok=True)
        return group


def _hierarchies() -> tuple[dict[str, str], str | None]:
    """Return where we may make groups: by version 1 controller, and of version 2."""
    own = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    v1: dict[str, str] = {}
    v2 = None
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            # Below our own group there can be none with controllers, since it has processes.
            v2 = point
        elif kind == "cgroup":
            mounted = options.split(" ")[-1].split(",")
            for controllers, path in own.items():
                names = controllers.split(",")
                if controllers and set(names) <= set(mounted):
                    v1.update(dict.fromkeys(names, point + path.rstrip("/")))
    return v1, v2


def _writable(path: str | None) -> str | None:
    return path if path is not None and os.access(path, os.W_OK) else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(value)
