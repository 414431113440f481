"""Whether a daemon is on the machine that this process sees, and helping it there by hand."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from pytest_benchscale.transports.container.hijack import DaemonAddress
from pytest_benchscale.transports.namespace import channel

__all__ = ["kill_inside", "shares_this_machine"]

_ASKING_SECONDS = 5.0
_ENDING_SECONDS = 5.0
_NAMESPACES = ("net", "mnt", "pid")
_CONTROL_GROUPS, _MEMBERS = Path("/sys/fs/cgroup"), "cgroup.procs"
_NET_ADMIN, _SYS_ADMIN = 12, 21  # linux/capability.h
_NEEDED = 1 << _NET_ADMIN | 1 << _SYS_ADMIN


def shares_this_machine(address: DaemonAddress) -> bool:
    """Return whether a daemon sees the networks, files and processes that this process sees, as root. Blocks.

    It does not when it, or this process, is in a container or a machine of its own. What answers at a socket
    of this machine may still be a proxy: that a thing of the daemon's own is there is for the caller to see.
    """
    if not address.is_local or os.geteuid() != 0 or not hasattr(socket, "SO_PEERCRED"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.settimeout(_ASKING_SECONDS)
            asker.connect(address.path)
            pid, _ = channel.peer(asker)
        theirs, ours = (Path(f"/proc/{one}/ns") for one in (pid, "self"))
        together = all((theirs / kind).samefile(ours / kind) for kind in _NAMESPACES)
        return together and _may_change_networks()
    except OSError:  # its processes are not among ours
        return False


def kill_inside(pid: int, container: str) -> bool:
    """Kill what runs in a container, all but its main process `pid`, which is stopped for good. Blocks.

    Return whether that is so; else the process is not there any more, it is not of this container, or
    something does not end. The end of a container costs its daemon ten times as much, and can wait then.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return False  # some builds of Python lack them
    deadline = monotonic() + _ENDING_SECONDS
    try:
        with _held(pid) as main:
            if not _is_in(pid, container):
                return False
            signal.pidfd_send_signal(main, signal.SIGSTOP)
            group = _control_group(pid, container)
            while group is not None and monotonic() < deadline:
                # Again and again, for what has started meanwhile.
                if not [
                    one for one in _members(group) if one != pid and _kill(one, container, deadline)
                ]:
                    return True
    except OSError:  # it has just ended
        pass
    return False


@contextmanager
def _held(pid: int) -> Iterator[int]:
    """Hold a process by a descriptor: its number is nobody else's meanwhile."""
    try:
        process = os.pidfd_open(pid)
    except OverflowError:
        raise ProcessLookupError(errno.ESRCH, "there is no such process") from None
    try:
        yield process
    finally:
        os.close(process)


def _kill(pid: int, container: str, deadline: float) -> bool:
    """Kill a process of a container and wait for its end; return whether it lived until now."""
    with suppress(ProcessLookupError, FileNotFoundError), _held(pid) as process:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        if not waiting.poll(0) and _is_in(pid, container):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            waiting.poll(max(0.0, deadline - monotonic()) * 1000)
            return True
    return False


def _is_in(pid: int, container: str) -> bool:
    """Return whether a process belongs to a container."""
    return container in Path(f"/proc/{pid}/cgroup").read_text()


def _control_group(pid: int, container: str) -> Path | None:
    """Return the directory of a container's control group; None: it cannot be seen from here."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        above, found, below = path.partition(container)
        rest = below.partition("/")[0]  # ".scope", of systemd's
        place = _CONTROL_GROUPS / controllers.removeprefix("name=")
        group = place / f"{above}{found}{rest}".lstrip("/")
        if found and (group / _MEMBERS).is_file():
            return group
    return None


def _members(group: Path) -> Iterator[int]:
    """Go through the processes of a control group, and of those below it."""
    for file in group.glob(f"**/{_MEMBERS}"):
        with suppress(OSError):  # that group is just gone
            yield from map(int, file.read_text().split())


def _may_change_networks() -> bool:
    """Return whether root has the capabilities here that it has elsewhere."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and int(found[1], 16) & _NEEDED == _NEEDED
