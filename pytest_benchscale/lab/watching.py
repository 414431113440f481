"""Having a process watch over our labs, as long as there is one that would outlive us: see `watchdog`."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest_benchscale
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.ledger import Entry
from pytest_benchscale.transports.namespace import channel

__all__ = ["WATCHING", "Watching"]

_SEND_SECONDS = 5.0
_END_SECONDS = 5.0
# -I and -S: no site-packages, no environment; the process needs the standard library only.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pytest_benchscale.lab.watchdog import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(slots=True)
class _Watched:
    directory: Path
    entry: Entry | None = None


class Watching:
    """The labs of this process that would outlive it, and the process that sees to it that they do not.

    That is started before the first is written down, and ends when the last is gone. It needs not have
    begun its work to be told of a lab: what it was told waits for it, also when we are gone by then. One
    that was killed is replaced with the next lab. Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._labs: dict[str, _Watched] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        return self._process.pid if self._process and self._owner == os.getpid() else None

    @property
    def labs(self) -> frozenset[str]:
        """The labs that this process has."""
        return frozenset(self._labs) if self._owner == os.getpid() else frozenset()

    def expect(self, lab_id: str, directory: Path) -> None:
        """Be told of a lab that will now be written down in this directory.

        Raises:
            LabError: there is nobody who could watch over it.
        """
        self._learn(lab_id, _Watched(directory))

    def learn(self, entry: Entry) -> None:
        """Be told of a lab that is written down: from now on the watchdog has the lock on its record, too.

        Raises:
            LabError: there is nobody who could watch over it.
        """
        self._learn(entry.record.lab_id, _Watched(entry.directory, entry))

    def release(self, entry: Entry) -> None:
        """Leave a lab that is kept to whoever takes it over."""
        self.done(entry.record.lab_id)
        # The watchdog may not yet have closed its own.
        fcntl.flock(entry.fileno(), fcntl.LOCK_UN)
        entry.let_go()

    def done(self, lab_id: str) -> None:
        """Nothing of a lab is left, or nobody shall end it. Safe for one that was never there."""
        with self._guard:
            if self._owner != os.getpid() or self._labs.pop(lab_id, None) is None:
                return
            if not self._labs:
                self._end()
            elif self._socket is not None:
                with suppress(OSError):  # the next lab brings a new one
                    channel.send(self._socket, {"done": lab_id})

    def _learn(self, lab_id: str, lab: _Watched) -> None:
        with self._guard:
            if self._owner != os.getpid():  # a copy of the process that has the others
                self._labs, self._process, self._socket = {}, None, None
                self._owner = os.getpid()
            known = lab_id in self._labs
            self._labs[lab_id] = lab
            try:
                self._tell(lab_id, lab)
            except OSError as error:
                if not known:
                    del self._labs[lab_id]
                raise LabError(
                    f"the process that watches over the lab cannot be started: {error}",
                    step="ledger",
                    details="nothing is made that could not be removed if this process were killed",
                ) from error

    def _tell(self, lab_id: str, lab: _Watched) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(OSError):
                self._send(lab_id, lab)
                return
        self._end()
        self._start()
        for one, watched in self._labs.items():
            self._send(one, watched)

    def _send(self, lab_id: str, lab: _Watched) -> None:
        assert self._socket is not None  # noqa: S101  there is a process
        descriptor = -1 if lab.entry is None else lab.entry.fileno()
        descriptors = (
            () if descriptor < 0 else (descriptor,)
        )  # what could not be struck off is let go
        channel.send(self._socket, {"lab": lab_id, "directory": str(lab.directory)}, descriptors)

    def _start(self) -> None:
        ours, theirs = channel.pair()
        source = str(Path(pytest_benchscale.__file__).parent.parent)
        argv = [sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
        try:
            self._process = subprocess.Popen(
                [*argv, "-c", _BOOT, source, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then ends its labs
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(_SEND_SECONDS)
        self._socket = ours

    def _end(self) -> None:
        """Let the watchdog end, with no concern for what it was told, and wait until it has."""
        process, self._process = self._process, None
        sock, self._socket = self._socket, None
        if sock is not None:
            with suppress(OSError):  # it has ended by itself, or been killed
                channel.send(sock, {"end": True})
            sock.close()
        if process is None:
            return
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(_END_SECONDS)


WATCHING = Watching()
"""Of this process."""
