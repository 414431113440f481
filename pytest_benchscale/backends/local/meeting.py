"""Where the holder of a kept lab can be met: at an abstract socket whose name says whose lab it is.

Such a name needs no directory, has room for all there is to say, is there exactly as long as the
holder, and the kernel lists all of them. Whoever is at the other end is asked for his user, since
names are anybody's.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.transports.namespace import channel

__all__ = ["address_of", "connect", "kept_labs", "listen"]

_PREFIX = "benchscale-local"


def address_of(owner: str, lab_id: str) -> str:
    """Return the name at which a lab's holder listens."""
    return f"{_PREFIX}/{os.getuid()}/{owner}/{lab_id}"


def listen(address: str) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        OSError: somebody does already.
    """
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        door.bind(f"\0{address}")
        door.listen()
    except BaseException:
        door.close()
        raise
    return door


def connect(address: str) -> socket.socket | None:
    """Return a connection to the holder of a lab; None: there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(f"\0{address}")
        _, uid = channel.peer(sock)
    except ConnectionRefusedError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    if uid != os.getuid():
        sock.close()
        return None
    return sock


def kept_labs(owner: str | None) -> list[OwnedThing]:
    """Return the labs of this user that are kept; of one owner, or (None) all."""
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = {}
    for line in lines:
        name = line.rpartition(" ")[2]
        prefix, _, rest = name.partition("/")
        parts = rest.split("/")
        if prefix != f"@{_PREFIX}" or len(parts) != 3 or parts[0] != str(os.getuid()):
            continue
        if owner in (None, parts[1]):
            found[rest] = OwnedThing("lab", name[1:], parts[2], parts[1])
    return list(found.values())
