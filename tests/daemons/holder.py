"""A process that holds daemons: when its input ends they end, and so does all that came of them.

Run as a program, with the seconds that daemons get to end by themselves. A line of input is a daemon
to start, as JSON: {"command": [...], "log": path, "environment": {...}}; the answer is its number.
Orphans of daemons become children of this process, so nothing of them is out of its reach: not the
containers, whose parents have left them, and not when who started it was killed by SIGKILL.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_FOR_KILLED = 20.0

_prctl = ctypes.CDLL(None).prctl


def main() -> None:
    grace = float(sys.argv[1])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    ends: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    daemons: set[int] = set()
    unread = b""
    while not ends:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            daemons -= _reap()
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                daemons.add(_start(**json.loads(line)))
    _end(daemons, grace)


def _start(command: list[str], log: str, environment: dict[str, str]) -> int:
    """Start a daemon and tell its number."""
    with Path(log).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
            # Only for the case that this process is killed itself.
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509  no threads
            close_fds=False,  # a lock is held for as long as anything of a daemon is there
        )
    print(process.pid, flush=True)
    return process.pid


def _reap() -> set[int]:
    """Return the children that have ended, adopted ones too."""
    ended: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.add(pid)


def _end(daemons: set[int], grace: float) -> None:
    """Ask the daemons to end, then kill whatever is still there."""
    deadline = time.monotonic() + grace
    for pid in daemons:
        os.kill(pid, signal.SIGTERM)
    while daemons and time.monotonic() < deadline:
        time.sleep(0.01)
        daemons -= _reap()
    deadline = time.monotonic() + _SECONDS_FOR_KILLED
    # Their children become ours one generation after the other.
    while (children := _children()) and time.monotonic() < deadline:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        _reap()


def _children() -> list[int]:
    """Return the children that nobody has reaped: until then, their numbers are theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid():
            found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    main()
