"""Whether a daemon is on the machine that this process sees, and helping it there by hand."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
from pathlib import Path

from pytest_benchscale.transports.container.hijack import DaemonAddress
from pytest_benchscale.transports.namespace import channel

__all__ = ["kill_container", "shares_this_machine"]

_ASKING_SECONDS = 5.0
_ENDING_SECONDS = 5.0
_NAMESPACES = ("net", "mnt", "pid")
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


def kill_container(pid: int, container: str) -> bool:
    """Kill everything in a container by its main process; return whether it has ended. Blocks.

    False: the process is not there any more, it is not of this container, or it does not end. For a daemon
    that shares this machine: it takes ten times as long to do so, and learns of the end by itself.
    """
    try:
        process = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return False
    try:
        # Read after it was opened: until it is closed, the process stands for that number.
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        # The first process of a namespace ends after all others in it.
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        return bool(waiting.poll(_ENDING_SECONDS * 1000))
    except OSError:  # it has just ended
        return False
    finally:
        os.close(process)


def _may_change_networks() -> bool:
    """Return whether root has the capabilities here that it has elsewhere."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and int(found[1], 16) & _NEEDED == _NEEDED
