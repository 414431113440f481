"""A libvirtd that one test has to itself, to freeze, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemons.needs import skip_or_fail
from tests.daemons.packages import search_path
from tests.daemons.service import Holder, is_alive
from tests.daemons.virtual import LIBVIRTD, VIRTLOGD, Libvirtd

__all__ = ["PrivateLibvirtd", "private_libvirtd"]

_SECONDS = 30.0


class PrivateLibvirtd:
    """A running libvirtd; `private_libvirtd` makes one. Its bridges and its pool are the machine's."""

    def __init__(self, holder: Holder, libvirtd: Libvirtd) -> None:
        self.uri = libvirtd.uri
        self._holder = holder
        self._libvirtd = libvirtd
        holder.start(VIRTLOGD, libvirtd.log.with_name("virtlogd.log"), {"PATH": search_path()})

    def start(self) -> None:
        """Start it, on what an earlier start left, and wait until it answers."""
        self._libvirtd.start(self._holder, LIBVIRTD)

    def freeze(self) -> None:
        """Have it answer nothing, with SIGSTOP."""
        os.kill(self._libvirtd.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        os.kill(self._libvirtd.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon alone, with SIGKILL; its guests go on."""
        os.kill(self._libvirtd.pid, signal.SIGKILL)
        deadline = time.monotonic() + _SECONDS
        while is_alive(self._libvirtd.pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"libvirtd has not ended {_SECONDS:.0f} s after SIGKILL")
            time.sleep(0.02)


@contextmanager
def private_libvirtd() -> Iterator[PrivateLibvirtd]:
    """Start a libvirtd; on leaving it has ended.

    Without root or libvirtd the test is skipped; in CI it fails.
    """
    if os.geteuid() != 0:
        skip_or_fail("needs root, to start a libvirtd")
    if shutil.which("libvirtd", path=search_path()) is None:
        skip_or_fail("libvirtd is not installed")
    # A path short enough for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        libvirtd = Libvirtd(Path(name))
        with Holder(grace=5, prefix=libvirtd.apart) as holder:
            private = PrivateLibvirtd(holder, libvirtd)
            private.start()
            yield private
