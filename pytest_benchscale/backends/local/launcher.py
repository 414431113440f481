"""Where a lab's processes begin: `main` is what the child interpreter of the backend runs.

The launcher enters the namespaces and forks the holder, which is the first process in the new pid
namespace. It stays as the holder's parent, because only a parent's death reaches a process through
PR_SET_PDEATHSIG: pytest dies, the launcher is told and kills the holder, and with it the kernel ends
the lab. What is left for the launcher to remove is the lab's control groups.
"""

from __future__ import annotations

import os
import signal
import socket

from pytest_benchscale.backends.local import holder, init
from pytest_benchscale.backends.local.held import Ties
from pytest_benchscale.backends.local.limits import Limits
from pytest_benchscale.transports.namespace import channel, linux

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn


def main(control_fd: int, parent: int, overlay: bool) -> NoReturn:
    """Hold a lab until the parent dies or the control channel closes. Does not return."""
    control = socket.socket(fileno=control_fd)
    init.prepare_signals()
    linux.prctl(linux.PR_SET_NAME, b"benchscale")
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    step = "namespaces"
    status = 0
    try:
        limits = Limits.find(f"benchscale-{os.getpid()}-{os.urandom(4).hex()}")
        privileged = _enter_namespaces()
        step = "fork"
        ours, theirs = socket.socketpair()
        gone, here = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            step = "mounts"
            ours.close()
            os.close(here)
            ties = Ties(theirs, gone)
            _hold(control, limits, ties, privileged=privileged, overlay=overlay)
        control.close()
        theirs.close()
        os.close(gone)  # the other end is closed by our own end
        status = _wait_for(pid, parent, ours)
        limits.remove()
    except OSError as error:
        text = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        channel.send(control, {"failed": step, "errno": error.errno, "text": text})
        status = 1
    finally:
        os._exit(1 if status else 0)


def _hold(
    control: socket.socket, limits: Limits, ties: Ties, *, privileged: bool, overlay: bool
) -> NoReturn:
    # Should the launcher be gone already, so is pytest, and the control channel closes.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_NAME, b"benchscale-lab")
    holder.set_up_mounts()
    holder.Holder(control, limits, ties, privileged=privileged, overlay=overlay).serve()


def _wait_for(holder_pid: int, parent: int, link: socket.socket) -> int:
    """Return the holder's status once it has ended. The parent's death ends it, unless the lab is kept."""

    def end_holder(_signum: int, _frame: object) -> None:
        os.kill(holder_pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end_holder)
    if os.getppid() != parent:  # it died before we could be told
        end_holder(signal.SIGTERM, None)
    while link.recv(1):  # the lab is kept
        linux.prctl(linux.PR_SET_PDEATHSIG, 0)
        link.send(b"k")
    _, status = os.waitpid(holder_pid, 0)
    return status


def _enter_namespaces() -> bool:
    """Leave the machine's namespaces; return whether we are still the machine's root."""
    if os.geteuid() == 0:
        try:
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID)
        except PermissionError:
            pass  # root in name only, as in most containers: go on as an ordinary user
        else:
            return True
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)  # a change of credentials resets it
    return False


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
