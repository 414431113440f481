"""Starting daemons by way of a holder, and waiting until they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemons import holder
from tests.daemons.endpoints import Unreachable, connection

__all__ = ["Holder", "NotStarted", "is_alive", "wait_until_answering"]

_LINES_SHOWN = 12


class NotStarted(Exception):
    """A daemon did not come up; the text says why, with the end of its log."""


class Holder:
    """The process that the daemons are children of; leaving it ends them."""

    def __init__(
        self, *, grace: float, prefix: Sequence[str] = (), inherited: Sequence[int] = ()
    ) -> None:
        """Start it, in the namespaces that `prefix` (such as unshare) makes.

        Daemons get `grace` (s) to end by themselves; they and their children hold the
        file descriptors `inherited`.
        """
        self._grace = grace
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-I", str(Path(holder.__file__)), str(grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is not meant for it
            pass_fds=inherited,
        )

    @property
    def pid(self) -> int:
        """The number of the holding process."""
        return self._process.pid

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a daemon and return its number."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"command": [*command], "log": str(log), "environment": {**(environment or {})}}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise NotStarted(f"{command[0]} was not started: its holder has ended")
        return int(answer)

    def close(self) -> None:
        """End the daemons and all that came of them."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                self._process.wait(self._grace + 30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def is_alive(pid: int) -> bool:
    """Return whether a daemon runs. Its holder reaps it as soon as it has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_answering(url: str, pid: int, log: Path, seconds: float) -> None:
    """Wait until a daemon answers.

    Raises:
        NotStarted: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with connection(url, timeout=5):
                return
        except Unreachable:
            if not is_alive(pid):
                raise NotStarted(f"it ended at once:\n{tail(log)}") from None
            if time.monotonic() > deadline:
                raise NotStarted(f"no answer within {seconds:.0f} s:\n{tail(log)}") from None
        time.sleep(0.05)


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:])
