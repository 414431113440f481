"""Messages with file descriptors between the processes of a lab, over a SOCK_SEQPACKET pair.

A message is one packet of JSON. One that is too large for a packet travels in a memfd, which is
then the first of its descriptors. Standard library only: both ends use it.
"""

from __future__ import annotations

import array
import json
import os
import socket

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

Message = dict[str, "Any"]

# Every command has this in its environment; it survives daemonising, which parentage does not.
MARKER = "BENCHSCALE_EXEC"

# Below the smallest default of net.core.wmem_default, with room for the kernel's bookkeeping.
_PACKET_BYTES = 64 * 1024
_IN_MEMFD = b"M"
_INLINE = b"J"
_MAX_DESCRIPTORS = 16


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end of a Unix socket: unix(7), SO_PEERCRED.

    The process is 0 where it is not among ours.
    """
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * array.array("i").itemsize)
    process, user, _group = array.array("I", told)
    return process, user


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors are duplicated to the other end.

    Raises:
        BlockingIOError: the socket is non-blocking and full; nothing was sent.
        OSError: the other end is gone.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) < _PACKET_BYTES:
        _send_packet(sock, _INLINE + body, descriptors)
        return
    memory = os.memfd_create("benchscale-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(body)
        _send_packet(sock, _IN_MEMFD, [memory, *descriptors])
    finally:
        os.close(memory)


def _send_packet(sock: socket.socket, packet: bytes, descriptors: Sequence[int]) -> None:
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, *, wait: bool = True) -> tuple[Message, list[int]] | None:
    """Receive one message and its descriptors (closed on exec); None: the other end is closed.

    Raises:
        BlockingIOError: there is none, and the socket is non-blocking or we are not to wait.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    packet, ancillary, _flags, _address = sock.recvmsg(
        _PACKET_BYTES + 1, socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4), flags
    )
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
            descriptors.extend(received)
    if not packet:
        return None
    body = packet[1:]
    if packet[:1] == _IN_MEMFD:
        with os.fdopen(descriptors.pop(0), "rb") as file:
            file.seek(0)
            body = file.read()
    return json.loads(body), descriptors
