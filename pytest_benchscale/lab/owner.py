"""Who a lab belongs to: the labels of everything that is made for it outside our processes."""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

__all__ = ["boot_id", "owner_labels", "since_boot"]


@functools.cache
def owner_labels() -> Mapping[str, str]:
    """Return what tells this process from every other one, also from a later one with the same PID.

    `benchscale.run` is unique; the rest tells whether the owner still lives: the boot of its
    machine, its PID there, and when that process started, in clock ticks since the boot.
    """
    return {
        "benchscale.run": uuid.uuid4().hex,
        "benchscale.boot": boot_id(),
        "benchscale.pid": str(os.getpid()),
        # proc(5): field 22, counted from behind the command's name, which may contain anything.
        "benchscale.started": (_read("/proc/self/stat").rpartition(")")[2].split() or [""] * 20)[
            19
        ],
    }


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of the machine from every other one; empty: it is not known."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def since_boot() -> float:
    """Return the seconds since this boot of the machine, which no setting of its clock changes."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
