"""A node of the `libvirt` backend: a domain, and what is known of it."""

from __future__ import annotations

import uuid

import anyio

from pytest_benchscale.backends.base import NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.domain_xml import DomainSpec
from pytest_benchscale.backends.libvirt.events import DomainEvent
from pytest_benchscale.errors import BenchscaleError, NodeDied
from pytest_benchscale.transports.ssh.client import SshTransport

__all__ = ["LibvirtNode"]

_ALIVE = frozenset({NodeStatus.RUNNING, NodeStatus.PAUSED})


class LibvirtNode:
    """A node as this side knows it. `domain` is the name of its domain, `spec` what it is made of."""

    def __init__(self, plan: NodePlan, domain: str) -> None:
        self.plan = plan
        self.domain = domain
        self.spec: DomainSpec | None = None
        self.console: Console | None = None
        self.console_path = ""
        self.status = NodeStatus.STOPPED
        self.reason: str | None = None
        self.transport: SshTransport | None = None
        self.is_set_up = False
        """Whether it was ready once: from then on it need not have cloud-init any more."""
        self.has_checkpoint = False
        """Whether its disk has a state to which it can be led back."""
        self.outlives_us = False
        """Whether its domain does not end with our connection."""
        self.stands_still_for_us = False
        """Whether we stop it for a moment: what is told of that changes nothing, until it goes on."""
        self.ended = anyio.Event()
        """Set by the end of the present run."""
        self._run = ""  # the UUID of the domain as it runs now

    @property
    def is_ours(self) -> bool:
        """Whether the lab made it."""
        return self.plan.spec.existing is None

    @property
    def is_alive(self) -> bool:
        """Whether it runs or is paused."""
        return self.status in _ALIVE

    def info(self) -> NodeInfo:
        """Return its state as the lab wants it."""
        return NodeInfo.of(self.plan, self.status, self.why())

    def why(self) -> str:
        """Return why nothing can be done in the node now."""
        return self.reason or f"it is {self.status}"

    def begins(self) -> str:
        """Take note that the domain is about to be started; return the UUID that this run is to have.

        So the end of an earlier run is never taken for that of this one, whenever it is told.
        """
        self.status, self.reason = NodeStatus.RUNNING, None
        self.stands_still_for_us = False
        self.ended = anyio.Event()
        self._run = str(uuid.uuid4())
        return self._run

    @property
    def run(self) -> str:
        """The UUID of the present run, or of the last."""
        return self._run

    def adopt(self, run: str, status: NodeStatus = NodeStatus.RUNNING) -> None:
        """Take note of a domain that runs already, by its UUID."""
        self.status, self.reason = status, None
        self._run = run

    def happened(self, event: DomainEvent) -> None:
        """Take note of an event of the domain, perhaps of an earlier run of it."""
        if event.uuid != self._run:
            return
        if event.end is not None:
            self.died(event.end)
        elif event.paused is not None and self.stands_still_for_us:
            self.stands_still_for_us = event.paused
        elif event.paused is not None and self.is_alive:
            self.status = NodeStatus.PAUSED if event.paused else NodeStatus.RUNNING

    def died(self, reason: str) -> None:
        """Take note that the domain has ended by itself, if it was not we who ended it."""
        if self.is_alive:
            self.status, self.reason = NodeStatus.DEAD, reason
            self.lost(NodeDied(self.plan.name, reason))
        self.ended.set()

    def lost(self, error: BenchscaleError) -> None:
        """Let go of the way in: everything on it ends with this error."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.lost(error)

    async def fate(self) -> BenchscaleError | None:
        """Return why connections to it break; None: it runs."""
        return None if self.is_alive else NodeDied(self.plan.name, self.why())

    async def death(self) -> str:
        """Return why the node has ended, once it has."""
        await self.ended.wait()
        return self.why()
