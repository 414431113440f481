"""A node of the `docker` backend: a container, and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import anyio

from pytest_benchscale.backends.base import NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.backends.docker.errand import Done, Errand
from pytest_benchscale.backends.docker.logs import Log
from pytest_benchscale.errors import BenchscaleError, NodeDied
from pytest_benchscale.network.link import Conduit
from pytest_benchscale.transports.container.client import ContainerTransport

__all__ = ["DockerNode", "Fate", "NodeConduit", "how_it_ended", "nanoseconds"]

Fate = Callable[[], Awaitable[BenchscaleError | None]]
"""Tells why a container does not answer; None: it runs."""

_ALIVE = frozenset({NodeStatus.RUNNING, NodeStatus.PAUSED})


class NodeConduit(Conduit, Protocol):
    """The way to the traffic control of one run of a container."""

    def lost(self, error: BenchscaleError) -> None:
        """Take note that the container has ended: every further change raises this error."""
        ...


class DockerNode:
    """A node as this side knows it, for as long as it has the same container.

    Times are the daemon's, in nanoseconds since 1970.
    """

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.status = NodeStatus.STOPPED
        self.reason: str | None = None
        self.container: str | None = None
        self.image = ""  # what the container was made of
        self.pid = 0  # of its main process, where the daemon counts them
        self.creation: Errand | Done | None = None
        self.own_command = False  # it is idle, and runs what its image says
        self.is_plugged = False  # its links are ours, not Docker's
        self.names: Path | None = None  # the directory of its name files, where they are ours
        self.commit: Errand | None = None
        self.checkpoint: str | None = (
            None  # the image that has its files as they were when it was ready
        )
        self.transport: ContainerTransport | None = None
        self.conduit: NodeConduit | None = None
        self.devices: Mapping[str, str] = {}
        self.lost_links = False  # its last run has ended with something that acted on them
        self.linking = anyio.Lock()  # of whoever looks for the two
        self.log = Log()
        self.ports: Mapping[str, int] = {}
        self.ended = anyio.Event()
        """Set by the end of the present run."""
        self._started = 0
        self._death = 0
        self._death_reason = ""
        self._out_of_memory = 0

    def successor(self) -> DockerNode:
        """Return the same node for another container, which is not there yet."""
        node = DockerNode(self.plan)
        node.image, node.own_command = self.image, self.own_command
        node.commit, node.checkpoint = self.commit, self.checkpoint
        node.lost_links = self.lost_links
        return node

    @property
    def is_alive(self) -> bool:
        """Whether it runs or is paused."""
        return self.status in _ALIVE

    def info(self) -> NodeInfo:
        """Return its state as the lab wants it."""
        info = NodeInfo.of(self.plan, self.status, self.why())
        return replace(info, ports=self.ports if self.is_alive else {})

    def why(self) -> str:
        """Return why nothing can be done in the node now."""
        return self.reason or f"it is {self.status}"

    def started(self, state: dict[str, Any]) -> None:
        """Take note that the container runs, according to its `State`.

        The news of its end may have come before.
        """
        self._started = nanoseconds(state["StartedAt"])
        self.pid = state.get("Pid", 0)
        self.status, self.reason = NodeStatus.RUNNING, None
        self.ended = anyio.Event()
        if self._death >= self._started:
            self.died(self._death, self._death_reason)

    def ran_out_of_memory(self, when: int) -> None:
        """Take note of the news that the kernel killed something in it for want of memory."""
        self._out_of_memory = when

    def died(self, when: int, reason: str) -> None:
        """Take note of the news that the container has ended, perhaps an earlier run of it."""
        if self._out_of_memory >= max(self._started, 1):
            reason = f"{reason}, after the kernel had killed a process of it for want of memory"
        self._death, self._death_reason = when, reason
        if not self.is_alive:
            return
        if when >= self._started:
            self.status, self.reason = NodeStatus.DEAD, reason
            self.ended.set()
            self.lost(NodeDied(self.plan.name, reason))

    def still(self, status: NodeStatus) -> None:
        """Take a change of state back that was not made, or nobody knows."""
        self.status = status
        if self._death:
            self.died(self._death, self._death_reason)

    def seen(self, state: dict[str, Any]) -> None:
        """Take over the container's `State` as the daemon tells it, after its news were missed."""
        if not self.is_alive:
            return
        if state.get("Running"):
            self.status = NodeStatus.PAUSED if state.get("Paused") else NodeStatus.RUNNING
        else:
            finished = nanoseconds(state.get("FinishedAt", ""))
            self.died(max(finished, self._started), how_it_ended(state))

    def gone(self) -> None:
        """Take note that there is no container any more."""
        self.died(self._started, "its container was removed")

    def lost(self, error: BenchscaleError) -> None:
        """Let go of the way in: everything on it ends with this error."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.lost(error)
        conduit, self.conduit = self.conduit, None
        if conduit is not None:
            self.lost_links = True
            conduit.lost(error)


def how_it_ended(state: dict[str, Any]) -> str:
    """Return the end of a container in words, of its `State` or of the attributes of an event."""
    code = state.get("ExitCode", state.get("exitCode"))
    reason = f"its main process ended with exit code {code}"
    if isinstance(error := state.get("Error"), str) and error:
        reason = f"{reason}: {error}"
    if state.get("OOMKilled"):
        reason = f"{reason}, killed by the kernel for want of memory"
    return reason


def nanoseconds(time: str) -> int:
    """Return a time in RFC 3339, such as 2025-01-31T12:00:00.123456789Z, as nanoseconds since 1970."""
    match = re.fullmatch(r"(.{19})(?:\.([0-9]{1,9})[0-9]*)?(Z|[+-][0-9:]{5})", time)
    if match is None:
        return 0
    seconds, fraction, zone = match.groups("0")
    whole = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    elapsed = whole.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86400 + elapsed.seconds) * 10**9 + int(fraction.ljust(9, "0"))
