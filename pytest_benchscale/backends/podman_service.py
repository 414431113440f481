"""Podman's Docker-compatible service, started by us where none runs.

Podman needs no daemon, so on most machines nothing listens. One service serves all labs of this process, from
the first that needs it to the last, and ends with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

__all__ = ["NotStarted", "PodmanService"]

START_SECONDS = 20.0
_END_SECONDS = 10.0
_PAUSE = 0.02
_LAST_LINES = 8
_LONGEST_DIRECTORY = 80  # the path of a socket has 108 bytes

# Runs "$@" until that ends, or until nobody holds the other end of its input any more: then whoever
# started this has let go or is dead, and the directory is of no use any more.
_GUARD = """
directory=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- & service=$!
trap 'kill "$service"; alone=yes' TERM
{ read -r _ <&3; kill "$$"; } & watch=$!
wait "$service"; code=$?
[ -z "$alone" ] || { wait "$service"; rm -rf -- "$directory"; }
kill "$watch" 2>/dev/null
exit "$code"
"""


class NotStarted(Exception):
    """The service did not come up; the text says why."""


class PodmanService:
    """The service of this process. `acquire` and `release` block, so call them in a worker thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()

    def acquire(self) -> Path:
        """Return the path of the service's socket, at which it answers until `release`.

        Raises:
            NotStarted: it did not come up.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()  # it has died since
            if self._process is None:
                self._start()
            self._users += 1
            return self._directory / "podman.sock"

    def release(self) -> None:
        """Undo one `acquire`; the last one ends the service."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def _start(self) -> None:
        program = shutil.which("podman")
        if program is None:
            raise NotStarted("the program `podman` is not installed")
        self._directory = directory = Path(tempfile.mkdtemp(prefix="benchscale-", dir=_parent()))
        path, log = directory / "podman.sock", directory / "log"
        service = [program, "system", "service", "--time=0", f"unix://{path}"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "benchscale-podman", str(directory), *service],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours: teardown still needs it
            )
        try:
            _wait_for(path, self._process, log)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101  for the type checker
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _parent() -> str | None:
    """Return a directory for the socket's whose path is short."""
    own = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    usable = len(own) < _LONGEST_DIRECTORY and os.access(own, os.W_OK | os.X_OK)
    return own if usable else "/tmp"  # noqa: S108  the directory in it is our own


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something listens there."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            else:
                return
        if process.poll() is not None:
            raise NotStarted(f"`podman system service` ended at once:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise NotStarted(
                f"`podman system service` did not listen within {START_SECONDS:g} s:\n{_tail(log)}"
            )
        time.sleep(_PAUSE)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join(lines) or "it said nothing"
