"""Running a command in between: what was made for it is removed after it, also on a signal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence

__all__ = ["leave_on_signals", "run_command"]


def leave_on_signals() -> None:
    """Have SIGTERM and SIGINT end this process in order."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code; signals to us are passed on, and it is waited for."""
    watched = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        pid = os.posix_spawnp(command[0], list(command), environment, setsigmask=before)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            received = signal.sigwaitinfo(watched)
            # A Ctrl-C comes from the kernel (SI_KERNEL), to the command as well as to us.
            if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
                os.kill(pid, received.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(ended[1])
    return code if code >= 0 else 128 - code
