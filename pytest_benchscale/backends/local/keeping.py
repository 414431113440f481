"""Who uses a lab, and what becomes of it when nobody does: the part of its holder about that.

A lab belongs to who made it, and ends with that. When it is kept, it waits at a socket for whoever takes it
over, or visits it; until its time is over.
"""

from __future__ import annotations

import os
import select
import socket
import time

from pytest_benchscale.backends.local.held import HeldNode, Ties
from pytest_benchscale.transports.namespace import channel

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import Any

_LONGEST_WAIT = 3600.0  # s: a poll does not count the time that the machine sleeps


class Keeping:
    """The clients of a lab."""

    def __init__(self, control: socket.socket, ties: Ties) -> None:
        self._ties = ties
        self._asking = control  # whose message is being answered
        self._owner: socket.socket | None = control  # with whom the lab ends
        self._clients = {control.fileno(): control}
        self._nodes: dict[str, HeldNode] = {}
        self._poller = select.poll()
        self._door: socket.socket | None = None
        self._until: float | None = None  # seconds since boot
        self._memory: dict[str, Any] = {}  # what the owner's side must know when it is another one

    def _on_keep(self, message: channel.Message, descriptors: list[int]) -> channel.Message:
        """Live on without an owner."""
        if self._door is None:
            # The launcher must no longer end with its parent.
            self._ties.launcher.send(b"k")
            self._ties.launcher.recv(1)
            self._door = socket.socket(fileno=os.dup(descriptors[0]))
            self._door.setblocking(False)  # noqa: FBT003 - the library's signature
            self._poller.register(self._door, select.POLLIN)
        self._memory = message["memory"]
        self._until = message["until"]
        self._owner = None
        return {}

    def _on_join(self, message: channel.Message, _fds: list[int]) -> None:
        """Tell a new client what there is; an owner's end is the lab's."""
        if message["owner"]:
            self._owner, self._until = self._asking, None
        nodes = {
            node.name: {
                "runs": node.pid is not None,
                "wanted": node.is_wanted,
                "status": node.status,
                "main": node.main_status,
                "uplink": node.uplink is not None,
            }
            for node in self._nodes.values()
        }
        answer = {"reply": message["request"], "memory": self._memory, "nodes": nodes}
        self._tell(self._asking, answer, [self._ties.gone])

    def _on_enter(self, message: channel.Message, _fds: list[int]) -> None:
        """Give a client the log of a node, and a channel to its first process where that runs."""
        node = self._nodes[message["name"]]
        handed = [node.log] if node.log is not None else []
        ends = []
        if node.pid is not None and node.back is not None:
            ends = list(channel.pair())
            channel.send(node.back, {"op": "client"}, [ends[1].fileno()])
            handed.append(ends[0].fileno())
        self._tell(self._asking, {"reply": message["request"]}, handed)
        for end in ends:
            end.close()

    def _on_hold_uplink(self, message: channel.Message, descriptors: list[int]) -> channel.Message:
        node = self._nodes[message["name"]]
        node.cut_uplink()
        node.uplink = os.dup(descriptors[0])
        return {}

    def _on_end(self, _message: channel.Message, _fds: list[int]) -> None:
        os._exit(0)

    def _accept(self) -> None:
        """Take a new client, if it is the same user's."""
        if self._door is None:
            return
        try:
            client, _ = self._door.accept()
        except BlockingIOError:
            return
        _, uid = channel.peer(client)
        if uid != os.getuid():
            client.close()
            return
        self._clients[client.fileno()] = client
        self._poller.register(client, select.POLLIN)

    def _lose(self, client: socket.socket) -> None:
        """A client is gone."""
        if client is self._owner:
            os._exit(0)
        fd = client.fileno()
        if self._clients.pop(fd, None) is not None:
            self._poller.unregister(fd)
            client.close()

    def _patience(self) -> float | None:
        """Return for how many milliseconds to wait for a message; ends the lab when its time is over."""
        if self._until is None or self._clients:
            return None
        left = self._until - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left <= 0:
            os._exit(0)
        return min(left, _LONGEST_WAIT) * 1000 + 1

    def _tell(
        self, client: socket.socket, message: channel.Message, descriptors: list[int] | None = None
    ) -> None:
        """Send a message; that a client is gone is noticed where it is read from."""
        try:
            if client.fileno() >= 0:
                channel.send(client, message, descriptors or ())
        except (BrokenPipeError, ConnectionResetError):
            return
