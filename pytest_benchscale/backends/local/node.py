"""A node of the `local` backend as the event loop's side knows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import anyio

from pytest_benchscale.backends.base import NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.backends.local.internet import Uplink
from pytest_benchscale.transports.namespace.channel import Message
from pytest_benchscale.transports.namespace.client import NamespaceTransport

__all__ = ["LocalNode", "how_it_ended", "main_ended"]


class LocalNode:
    """A node as this side knows it."""

    def __init__(self, plan: NodePlan, number: int, log: int | None = None) -> None:
        self.plan = plan
        self.number = number
        self.status = NodeStatus.STOPPED
        self.reason: str | None = None
        self.transport: NamespaceTransport | None = None
        # Whatever the main command writes; in memory, so that it outlives the node.
        self.log = os.memfd_create("benchscale-log", os.MFD_CLOEXEC) if log is None else log
        self.ready: anyio.Event = anyio.Event()
        self.failure: Message | None = None
        self.namespace = -1  # its network namespace, on the way to the holder
        self.uplink: Uplink | None = None
        self.has_uplink = False  # also where the holder has it, of a lab that was kept

    def found(self, state: Mapping[str, Any]) -> None:
        """Take over what the holder tells of a node that another process has made."""
        self.has_uplink = state["uplink"]
        if state["runs"]:
            self.status = NodeStatus.RUNNING
            return
        self.status = NodeStatus.DEAD if state["wanted"] else NodeStatus.STOPPED
        if state["main"] is not None:
            self.reason = main_ended(state["main"])
        elif state["wanted"] and state["status"] is not None:
            self.reason = how_it_ended(state["status"])

    def info(self) -> NodeInfo:
        """Return its state as the lab wants it."""
        return NodeInfo.of(self.plan, self.status, self.why())

    def why(self) -> str:
        """Return why nothing can be done in the node now."""
        if self.reason is None and self.status is NodeStatus.DEAD:
            return "its first process was killed from outside"
        return self.reason or f"it is {self.status}"

    def link_name(self, index: int) -> str:
        """Return the name of our end of one of its links."""
        return f"v{self.number}.{index}"

    def read_log(self) -> str:
        """Return what its main command has written."""
        return os.pread(self.log, os.fstat(self.log).st_size, 0).decode("utf-8", "replace")

    def clear_log(self) -> None:
        """Forget what it has written; nobody writes at the moment."""
        os.ftruncate(self.log, 0)
        os.lseek(self.log, 0, os.SEEK_SET)  # the place is shared with whoever will write


def main_ended(status: int) -> str:
    """Return the end of a node's main command in words."""
    return f"its main command ended with exit code {status}"


def how_it_ended(status: int) -> str:
    """Return the end of a node's first process in words; a negative status is a signal."""
    if status < 0:
        return f"its first process was killed by signal {-status}"
    return f"its first process ended with exit code {status}"
