"""What the holder of a lab knows of its nodes, and of its own children."""

from __future__ import annotations

import os
import socket

from pytest_benchscale.transports.namespace import channel

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from pytest_benchscale.backends.local.rootfs import Layout


class Ties:
    """What the holder has of its parent, the launcher."""

    def __init__(self, launcher: socket.socket, gone: int) -> None:
        self.launcher = launcher  # told when the lab is kept
        self.gone = (
            gone  # reads to its end when the launcher, and so everything of the lab, has ended
        )


class Work:
    """A child that does something that takes long, and the request that it answers."""

    def __init__(self, client: socket.socket, request: int, errors: int) -> None:
        self.client = client
        self.request = request
        self.errors = errors  # reads what it says when it fails


class HeldNode:
    """A node. What outlives its processes: its files and, once it is up, its network namespace."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        self.network_namespace: int | None = None
        self.uplink: int | None = None  # the pipe on which its way to the outside hangs
        self.links: list[str] = []  # the ends of its veths on our side
        self.etc: dict[str, str] = {}  # the files of /etc that it was made with
        self.layout: Layout | None = None
        self.seals: list[str] = []  # its checkpoints, the newest first
        self.made_seals = 0
        self.beneath: list[str] = []  # those that its files of now are mounted on
        self.pid: int | None = None
        self.back: socket.socket | None = None  # the channel to its first process
        self.log: int | None = None
        self.is_wanted = True  # False: its end was asked for
        self.status: int | None = None  # of its first process, once that has ended
        self.main_status: int | None = None  # of its main command, where it ended with that
        # Who waits for its end: client and request.
        self.waiting: list[tuple[socket.socket, int]] = []

    def new_channel(self) -> socket.socket:
        """Make a channel to the first process of a new life; return that end."""
        if self.back is not None:
            self.back.close()
        self.back, theirs = channel.pair()
        return theirs

    def hold_log(self, log: int) -> None:
        """Keep the node's log for whoever takes the lab over."""
        if self.log is None:
            self.log = os.dup(log)

    def forget_end(self) -> None:
        """A new life begins."""
        self.is_wanted, self.status, self.main_status = True, None, None

    def note_end(self, status: int) -> None:
        """Take note of how it ended, in its own last words where there are any."""
        self.status = status
        if self.back is None:
            return
        try:
            received = channel.receive(self.back, wait=False)
        except (BlockingIOError, ConnectionResetError):
            received = None
        if received is not None:
            self.main_status = received[0].get("ended")

    def cut_uplink(self) -> None:
        """End its way to the outside."""
        if self.uplink is not None:
            os.close(self.uplink)
            self.uplink = None

    def close(self) -> None:
        """Let go of what it has, once it is forgotten."""
        self.cut_uplink()
        for descriptor in (self.network_namespace, self.log):
            if descriptor is not None:
                os.close(descriptor)
        self.network_namespace = self.log = None
