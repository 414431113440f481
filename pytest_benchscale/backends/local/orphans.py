"""Children of this process that live on without it: they belong to a lab that is kept."""

from __future__ import annotations

import atexit
import subprocess

__all__ = ["leave"]

_LEFT: list[subprocess.Popen[bytes]] = []


def leave(process: subprocess.Popen[bytes]) -> None:
    """Let a child live on; should it end before we do, the next call takes note."""
    _LEFT[:] = [one for one in [*_LEFT, process] if one.poll() is None]


@atexit.register
def _let_go() -> None:
    for process in _LEFT:
        if process.poll() is None:
            process.returncode = 0  # so that the interpreter does not complain of it
