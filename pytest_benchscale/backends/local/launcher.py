"""Where a lab's processes begin: `main` is what the child interpreter of the backend runs.

The launcher enters the namespaces and forks the holder, which is the first process in the new pid
namespace. It stays as the holder's parent, because only a parent's death reaches a process through
PR_SET_PDEATHSIG: pytest dies, the launcher dies, the holder dies, and with it the kernel ends the lab.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from pytest_benchscale.backends.local import holder, init
from pytest_benchscale.transports.namespace import channel, linux

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn


def main(control_fd: int, parent: int, overlay: bool) -> NoReturn:
    """Hold a lab until the parent dies or the control channel closes. Does not return."""
    control = socket.socket(fileno=control_fd)
    init.prepare_signals()
    _die_with(parent)
    step = "namespaces"
    status = 0
    try:
        privileged = _enter_namespaces()
        step = "holder process"
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            step = "mounts"
            _hold(control, launcher, privileged=privileged, overlay=overlay)
        control.close()
        _, status = os.waitpid(pid, 0)
    except OSError as error:
        text = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        channel.send(control, {"failed": step, "errno": error.errno, "text": text})
        status = 1
    finally:
        os._exit(1 if status else 0)


def _hold(control: socket.socket, launcher: int, *, privileged: bool, overlay: bool) -> NoReturn:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (0, launcher):  # 0: a parent outside of this pid namespace
        os._exit(1)
    linux.prctl(linux.PR_SET_NAME, b"benchscale-lab")
    holder.set_up_mounts()
    holder.Holder(control, privileged=privileged, overlay=overlay).serve()


def _die_with(parent: int) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_NAME, b"benchscale")
    if os.getppid() != parent:
        os._exit(1)  # it died before we could ask


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
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of credentials resets it
    return False


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "overlay")
