"""Who a lab belongs to: the labels of everything that is made for it outside our processes."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

__all__ = ["owner_labels"]


@functools.cache
def owner_labels() -> Mapping[str, str]:
    """Return what tells this process from every other one, also from a later one with the same PID.

    `benchscale.run` is unique; the rest tells whether the owner still lives: the boot of its
    machine, its PID there, and when that process started, in clock ticks since the boot.
    """
    return {
        "benchscale.run": uuid.uuid4().hex,
        "benchscale.boot": _read("/proc/sys/kernel/random/boot_id").strip(),
        "benchscale.pid": str(os.getpid()),
        # proc(5): field 22, counted from behind the command's name, which may contain anything.
        "benchscale.started": (_read("/proc/self/stat").rpartition(")")[2].split() or [""] * 20)[
            19
        ],
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
