"""Stopping and starting a node, and what its state allows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.machine import Machine

__all__ = ["BOOT_DEADLINE", "CHANGE_DEADLINE", "Lifecycle"]

BOOT_DEADLINE = 600.0  # seconds; a machine may have to boot
CHANGE_DEADLINE = 60.0


class Lifecycle:
    """The changes of one node's state, one at a time. What is so already is left as it is."""

    def __init__(self, machine: Machine, links: LinkStates) -> None:
        self._machine = machine
        self._links = links
        self._backend = machine.context.backend

    async def start(self) -> None:
        """Start a stopped or dead node."""
        __tracebackhide__ = True
        machine = self._machine
        machine.context.require(Capability.STOP)
        async with machine.changing:
            status = (await machine.refresh()).status
            if status is NodeStatus.RUNNING:
                return
            if status is NodeStatus.PAUSED:
                raise LabError(
                    f"node {machine.name!r} is paused, not stopped",
                    node=machine.name,
                    step="start",
                    resolution=f"`await lab[{machine.name!r}].resume()`",
                )
            await machine.adopt(
                await self._change("start", self._backend.start_node, deadline=BOOT_DEADLINE)
            )
            await self._links.begin(machine.name)

    async def stop(self, grace: float) -> None:
        """Stop a running or paused node in order."""
        __tracebackhide__ = True
        if grace < 0:
            raise ValueError(f"a grace period is not negative, as {grace:g} s is")
        machine = self._machine
        machine.context.require(Capability.STOP)
        async with machine.changing:
            status = (await machine.refresh()).status
            if status in {NodeStatus.STOPPED, NodeStatus.DEAD}:
                return
            if status is NodeStatus.PAUSED:  # what is frozen cannot end in order
                await self._change("resume", self._backend.resume_node)

            async def stop(name: str) -> None:
                await self._backend.stop_node(name, grace)

            await self._change("stop", stop, deadline=grace + CHANGE_DEADLINE)
            await machine.adopt(await machine.refresh())

    async def kill(self) -> None:
        """End a node at once."""
        __tracebackhide__ = True
        machine = self._machine
        machine.context.require(Capability.STOP)
        async with machine.changing:
            if (await machine.refresh()).status in {NodeStatus.STOPPED, NodeStatus.DEAD}:
                return
            await self._change("kill", self._backend.kill_node)
            await machine.adopt(await machine.refresh())

    async def pause(self) -> None:
        """Freeze a running node."""
        __tracebackhide__ = True
        await self._freeze("pause", self._backend.pause_node, NodeStatus.PAUSED)

    async def resume(self) -> None:
        """Let a paused node go on."""
        __tracebackhide__ = True
        await self._freeze("resume", self._backend.resume_node, NodeStatus.RUNNING)

    async def _freeze(
        self, step: str, work: Callable[[str], Coroutine[Any, Any, None]], wanted: NodeStatus
    ) -> None:
        __tracebackhide__ = True
        machine = self._machine
        machine.context.require(Capability.PAUSE)
        async with machine.changing:
            info = await machine.refresh()
            if info.status is wanted:
                return
            if info.status in {NodeStatus.STOPPED, NodeStatus.DEAD}:
                await machine.require_running(info, step)
            await self._change(step, work)
            await machine.refresh()

    async def _change(
        self,
        step: str,
        work: Callable[[str], Coroutine[Any, Any, Any]],
        *,
        deadline: float = CHANGE_DEADLINE,
    ) -> Any:
        __tracebackhide__ = True
        name = self._machine.name
        return await self._machine.context.ask(
            lambda: work(name), deadline=deadline, node=name, step=step
        )
