"""Noticing the end of child processes in a poll loop."""

from __future__ import annotations

import contextlib
import os
import signal


class Children:
    """The children of this process; `wakeup` is readable when one may have ended."""

    def __init__(self) -> None:
        self.wakeup, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # There must be a handler for the wake-up descriptor to be written.
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def reap(self) -> list[tuple[int, int]]:
        """Return number and exit code (negative: a signal) of those that have ended since."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup, 512):
                pass
        ended = []
        with contextlib.suppress(ChildProcessError):  # there are none
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                ended.append((pid, os.waitstatus_to_exitcode(status)))
        return ended
