"""Faults of a whole node: it is frozen, without power, or stopped for the duration of a block."""

from __future__ import annotations

from typing import ClassVar

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import BenchscaleError, FaultNotEffective, FaultNotHealed
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.lifecycle import BOOT_DEADLINE, CHANGE_DEADLINE, Lifecycle
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.transports.base import Command

__all__ = ["Killed", "Paused", "Stopped"]

_ANSWER_DEADLINE = 30.0  # seconds that a node may take to answer again


class _NodeState(Fault):
    """A node that runs before and after the block, and not in it."""

    def __init__(self, machine: Machine, lifecycle: Lifecycle, what: str) -> None:
        super().__init__(machine.context, f"{what} {machine.name}")
        self._machine = machine
        self._lifecycle = lifecycle
        self._touched = False

    async def _require_running(self, step: str) -> None:
        """Check that there is something to be taken away.

        Raises:
            LabError, NodeDied: the node does not run as it is.
        """
        __tracebackhide__ = True
        await self._machine.require_running(await self._machine.refresh(), step)
        self._touched = True

    async def _check_gone(self, *wanted: NodeStatus) -> None:
        status = (await self._machine.refresh()).status
        if status not in wanted:
            raise FaultNotEffective(
                f"'{self.what}' has no effect: node {self._machine.name!r} is {status}",
                node=self._machine.name,
                step="fault",
            )

    async def _check_back(self) -> None:
        """Check that the node answers a command again."""
        machine = self._machine
        try:
            await machine.run(
                ("/bin/sh", "-c", ":"),
                Command(("/bin/sh", "-c", ":")),
                timeout=self._context.scaled(_ANSWER_DEADLINE),
                recorded=False,
            )
        except BenchscaleError as exc:
            raise FaultNotHealed(
                f"node {machine.name!r} does not answer after '{self.what}'",
                node=machine.name,
                step="fault",
                details=str(exc),
            ) from exc


class Paused(_NodeState):
    """The node is frozen during the block, and goes on after it."""

    deadline: ClassVar[float] = 2 * CHANGE_DEADLINE

    def __init__(self, machine: Machine, lifecycle: Lifecycle) -> None:
        super().__init__(machine, lifecycle, "pause")

    async def _make(self) -> None:
        __tracebackhide__ = True
        self._context.require(Capability.PAUSE)
        await self._require_running("pause")
        await self._lifecycle.pause()
        await self._check_gone(NodeStatus.PAUSED)

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        if self._touched:
            await self._lifecycle.resume()
            await self._check_back()


class Killed(_NodeState):
    """The node loses its power at the block's beginning, and is started again at its end."""

    deadline: ClassVar[float] = BOOT_DEADLINE + CHANGE_DEADLINE

    def __init__(self, machine: Machine, lifecycle: Lifecycle) -> None:
        super().__init__(machine, lifecycle, "kill")

    async def _make(self) -> None:
        __tracebackhide__ = True
        self._context.require(Capability.STOP)
        await self._require_running("kill")
        await self._lifecycle.kill()
        await self._check_gone(NodeStatus.STOPPED, NodeStatus.DEAD)

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        if self._touched:
            await self._lifecycle.start()
            await self._check_back()


class Stopped(_NodeState):
    """The node is stopped in order at the block's beginning, and started again at its end."""

    deadline: ClassVar[float] = BOOT_DEADLINE + CHANGE_DEADLINE

    def __init__(self, machine: Machine, lifecycle: Lifecycle, grace: float) -> None:
        super().__init__(machine, lifecycle, "stop")
        self._grace = grace

    async def _make(self) -> None:
        __tracebackhide__ = True
        self._context.require(Capability.STOP)
        await self._require_running("stop")
        await self._lifecycle.stop(self._grace)
        await self._check_gone(NodeStatus.STOPPED)

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        if self._touched:
            await self._lifecycle.start()
            await self._check_back()
