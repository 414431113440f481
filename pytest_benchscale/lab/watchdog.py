"""A process that outlives pytest, so that a lab does not: it removes what pytest leaves when it is killed.

Sleeps until it is told something or pytest ends. It holds the lock on the record of every lab that pytest
has, so that nobody takes a lab for abandoned between the end of pytest and the end of the lab. What removes
the labs is `reaper`, in a process of its own. Only the standard library is imported, and little of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

from pytest_benchscale.transports.namespace import channel

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

_REAP_SECONDS = 180  # more than the reaper gives itself
_RECORD = "record"
_TAIL_BYTES = 1 << 20
# -P: the current directory is not searched for modules.
_REAPER = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from pytest_benchscale.lab.reaper import main; sys.exit(main())"
)


class _Lab:
    """A lab of pytest's: its directory in the ledger, and its locked record once that is written."""

    def __init__(self, directory: str, descriptor: int = -1) -> None:
        self.directory = directory
        self.descriptor = descriptor

    @property
    def ledger(self) -> str:
        return os.path.dirname(os.path.dirname(self.directory))  # noqa: PTH120  pathlib is large

    def let_go(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Watchdog:
    def __init__(self, sock: socket.socket, parent: int) -> None:
        self._socket = sock
        self._parent = parent
        self._labs: dict[str, _Lab] = {}

    def watch(self) -> dict[str, _Lab]:
        """Return what pytest has left when it is gone; empty when it has ended in order."""
        life = _life_of(self._parent)
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        if life is not None:
            waiting.register(life, select.POLLIN)
        connected = True
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll()}
            gone = life in ready
            if connected and (gone or self._socket.fileno() in ready):
                connected = self._listen()
                if not connected:
                    waiting.unregister(self._socket)
            # Where the end of a process cannot be waited for, that of its connection must do.
            if gone or not (connected or (self._labs and life is not None)):
                return self._labs

    def _listen(self) -> bool:
        """Take in all messages that are there; return whether more may come."""
        while True:
            try:
                received = channel.receive(self._socket, wait=False)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if received is None:
                return False
            message, descriptors = received
            if "lab" in message:
                self._forget(message["lab"])
                self._labs[message["lab"]] = _Lab(message["directory"], *descriptors[:1])
            elif "done" in message:
                self._forget(message["done"])
            elif (
                "end" in message
            ):  # said, too: a process that inherited the other end keeps it open
                self._labs.clear()
                return False

    def _forget(self, lab_id: str) -> None:
        if (lab := self._labs.pop(lab_id, None)) is not None:
            lab.let_go()


def main(number: int, parent: int) -> NoReturn:
    """Watch over the process that has the other end of a socket; return when there is nothing left to do."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # these are for pytest, which then ends its labs
    left = _Watchdog(socket.socket(fileno=number), parent).watch()
    ledgers: dict[str, dict[str, _Lab]] = {}
    for lab_id, lab in left.items():
        if _is_to_be_removed(lab):
            ledgers.setdefault(lab.ledger, {})[lab_id] = lab
    deadline = time.monotonic() + _REAP_SECONDS
    for reaper, log in [_reap(ledger, labs) for ledger, labs in ledgers.items()]:
        if _outlast(reaper, deadline) and log is not None:
            with contextlib.suppress(OSError):
                os.unlink(log)  # noqa: PTH108
    os._exit(0)  # pytest may be waiting: the interpreter's own farewell takes longer than the rest


def _life_of(parent: int) -> int | None:
    """Return a descriptor that is readable when the process has ended; None: this system has none.

    A number may be used again, but not while the process that started us has it.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(parent)
        if os.getppid() == parent:
            return descriptor
    except ProcessLookupError:
        pass
    except OSError:  # an old kernel
        return None
    ours, theirs = os.pipe()  # it has ended already
    os.close(theirs)
    return ours


def _is_to_be_removed(lab: _Lab) -> bool:
    """Whether there may be something of a lab, and nobody has kept it; holds its record then."""
    if lab.descriptor < 0 and not _take(lab):
        return False
    events = _events(lab.descriptor)
    # The record comes before everything else of the lab, and goes after it.
    struck = os.fstat(lab.descriptor).st_nlink == 0
    if struck or "lab" not in events:
        _discard(lab.directory)
    elif events[-1] != "kept":
        return True
    lab.let_go()
    return False


def _take(lab: _Lab) -> bool:
    """Lock the record of a lab that was being written down; False: it is not there, or somebody has it."""
    try:
        lab.descriptor = os.open(f"{lab.directory}/{_RECORD}", os.O_RDWR | os.O_APPEND)
    except OSError:
        _discard(lab.directory)
        return False
    try:
        fcntl.flock(lab.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lab.let_go()
        return False
    return True


def _events(descriptor: int) -> list[str]:
    """Return what became of a lab, as its record tells; the last is what counts."""
    found = []
    size = os.fstat(descriptor).st_size
    for line in os.pread(descriptor, min(size, _TAIL_BYTES), 0).splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)["event"]
            if event in {"lab", "kept", "taken"}:
                found.append(event)
    return found


def _discard(directory: str) -> None:
    """Remove the directory of a lab of which nothing was made."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):  # noqa: PTH208
            os.unlink(f"{directory}/{name}")  # noqa: PTH108
        os.rmdir(directory)  # noqa: PTH106


def _reap(ledger: str, labs: dict[str, _Lab]) -> tuple[int, str | None]:
    """Start the removal of labs of one ledger; return the process, and its log."""
    log, output = _open_log(ledger)
    reaper = os.fork()
    if reaper:
        for lab in labs.values():
            lab.let_go()
        os.close(output)
        return reaper, log
    try:
        signal.alarm(_REAP_SECONDS)  # whatever happens to us meanwhile
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        words = ["-P", *(["-B"] if sys.dont_write_bytecode else []), "-c", _REAPER, sys.path[0]]
        for lab_id, lab in labs.items():
            os.set_inheritable(lab.descriptor, True)  # noqa: FBT003
            words += ["--fd", str(lab.descriptor), lab_id]
        environment = {**os.environ, "BENCHSCALE_STATE_DIR": ledger}
        os.execve(sys.executable, [sys.executable, *words], environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"the labs {', '.join(labs)} are left: {error}\n".encode())
    finally:
        os._exit(127)


def _open_log(ledger: str) -> tuple[str | None, int]:
    directory = f"{ledger}/logs"
    path = f"{directory}/watchdog-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return None, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _outlast(process: int, deadline: float) -> bool:
    """Wait for the end of a process, and bring it about at the deadline; return whether all went well."""
    with contextlib.suppress(AttributeError):  # there, its own alarm must do
        life = os.pidfd_open(process)
        waiting = select.poll()
        waiting.register(life, select.POLLIN)
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            os.kill(process, signal.SIGKILL)
        os.close(life)
    _, status = os.waitpid(process, 0)
    return status == 0
