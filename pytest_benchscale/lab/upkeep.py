"""What becomes of a lab that is up: led back to how it was, or kept for later. Methods of `Lab`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from pytest_benchscale.backends.base import Capability, LabPlan, NetworkInfo
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.lab.bringup import AT_ONCE, Created, first_of, placed, wait_for_all
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.faults import Faults
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.portal import Portal, blocking, on_portal
from pytest_benchscale.lab.record import Kept
from pytest_benchscale.lab.registration import Registration

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab
    from pytest_benchscale.lab.node import Node

__all__ = ["SyncUpkeep", "Upkeep"]

RESET_DEADLINE = 300.0  # seconds for one node: a machine may have to load its memory
KEEP_DEADLINE = 60.0


class Upkeep:
    """Reset and keep."""

    _context: LabContext
    _portal: Portal
    _faults: Faults
    _machines: Mapping[str, Machine]
    _nodes: Mapping[str, Node]
    _created: Created
    _plan: LabPlan | None
    _registration: Registration | None
    _turn: asyncio.Lock
    _up: bool
    _begun: bool

    @on_portal
    async def reset(self) -> None:
        """Lead every node back to how it was when the lab was first ready, without building it again.

        Faults are taken back. Every node is started anew with the files that it had, in the order of
        `depends_on`, and its `wait_for` is waited for. What `setup` had left running in the background
        does not come back, except in a machine with a memory of its own.

        Raises:
            NotSupported: the backend cannot.
            LabError: the lab is not up, was brought up without `resettable`, or a node failed.
        """
        __tracebackhide__ = True
        self._context.require(Capability.RESET)
        async with self._turn:
            if not self._up or self._plan is None:
                raise LabError("the lab is not up: there is nothing to reset", step="reset")
            if not self._context.options.resettable:
                raise LabError(
                    f"lab {self._plan.name!r} does not remember how it was when it was ready",
                    step="reset",
                    resolution='mark the test with @pytest.mark.topology(..., reset="test"), or open '
                    "the lab with LabOptions(resettable=True)",
                )
            await self._faults.heal()
            again = _Again(self._context, self._faults, self._machines, self._nodes)
            await again.run(self._plan)

    @on_portal
    async def keep(
        self,
        kept_for: float | None,
        *,
        dirty: bool = False,
        reuse: bool = False,
        fingerprint: str | None = None,
        conditioned: bool = False,
    ) -> None:
        """Leave the lab running for whoever takes it over; this object is at its end then.

        `kept_for` is in seconds, None: until somebody ends it. Faults are taken back, and so are the
        conditions of links, unless it stays `conditioned`: for one that will be visited, not taken over.
        `fingerprint` tells what a lab must be asked for as, to be given this one.

        Raises:
            NotSupported: the backend cannot.
            LabError: that failed; the lab is still up.
        """
        __tracebackhide__ = True
        self._context.require(Capability.KEEP)
        with anyio.CancelScope(shield=True):
            async with self._turn:
                plan, registration = self._plan, self._registration
                if not self._up or plan is None or registration is None:
                    raise LabError("the lab is not up: there is nothing to keep", step="keep")
                await self._faults.heal()
                links = self._faults.links
                try:
                    if not conditioned:  # whoever takes the lab over must know what acts: nothing
                        await links.withdraw()
                    kept = Kept({}, {}, dirty=dirty, reuse=reuse, fingerprint=fingerprint)
                    await self._leave(registration, kept.lasting(kept_for))
                except BaseException:
                    if not conditioned:
                        await links.resume()
                    raise
                self._up = False
                for machine in self._machines.values():
                    machine.info = None
                self._created.forget()
                await self._context.backend.close()

    async def _leave(self, registration: Registration, kept: Kept) -> None:
        """Let go of everything, and write down what the next owner needs."""
        backend, context = self._context.backend, self._context
        image_ids = await self.image_ids()
        for machine in self._machines.values():
            await machine.let_go()
        await registration.enter()
        state = await context.ask(
            lambda: backend.keep(kept.until_booted), deadline=KEEP_DEADLINE, node=None, step="keep"
        )
        await registration.keep(replace(kept, state=state, image_ids=image_ids))

    @on_portal
    async def image_ids(self) -> Mapping[str, str]:
        """Return by node what changes when the contents of its image do, as it is now.

        Raises:
            LabError: the lab is not up.
        """
        plan, backend = self._plan, self._context.backend
        if not self._up or plan is None:
            raise LabError("the lab is not up: its images cannot be told", step="image ids")
        return await self._context.ask(
            lambda: backend.image_ids(plan), deadline=KEEP_DEADLINE, node=None, step="image ids"
        )

    @on_portal
    async def leave(self) -> None:
        """Let go of a kept lab that was only visited: it stays as it is, and kept."""
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if not self._up:
                    return
                self._up = False
                for machine in self._machines.values():
                    await machine.let_go()
                    machine.info = None
                backend = self._context.backend
                await self._context.ask(
                    backend.keep, deadline=KEEP_DEADLINE, node=None, step="leave"
                )
                self._created.forget()
                await backend.close()

    @on_portal
    async def adopt(self, plan: LabPlan, registration: Registration, kept: Kept) -> None:
        """Become the lab that another process has kept; for a guest, what acts on its links stays.

        Raises:
            LabError: it is not whole any more; nothing was changed.
        """
        backend = self._context.backend
        async with self._turn:
            await backend.probe()
            infos = await self._context.ask(
                lambda: backend.adopt(plan, kept.state),
                deadline=KEEP_DEADLINE,
                node=None,
                step="adopt",
            )
            self._plan, self._registration = plan, registration
            self._created.opened = True
            self._created.networks = {
                one.name: NetworkInfo(one.name, one.subnet, one.gateway, one.internet)
                for one in plan.networks
            }
            for node in plan.nodes:
                self._created.nodes[node.name] = None
                self._machines[node.name].plan = node
            for info in infos:
                await self._machines[info.name].adopt(info)
            if not plan.guest:
                await self._faults.links.resume()
            self._begun = self._up = True


class _Again:
    """One reset of all nodes, in the order of `depends_on`."""

    def __init__(
        self,
        context: LabContext,
        faults: Faults,
        machines: Mapping[str, Machine],
        nodes: Mapping[str, Node],
    ) -> None:
        self._context = context
        self._faults = faults
        self._machines = machines
        self._nodes = nodes
        self._at_once = anyio.CapacityLimiter(AT_ONCE)
        self._ready = {name: anyio.Event() for name in nodes}

    async def run(self, plan: LabPlan) -> None:
        try:
            async with anyio.create_task_group() as group:
                for node in plan.nodes:
                    group.start_soon(self._node, node.name)
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _node(self, name: str) -> None:
        machine, node, backend = self._machines[name], self._nodes[name], self._context.backend
        for dependency in node.spec.depends_on:
            await self._ready[dependency].wait()
        try:
            async with self._at_once, machine.changing:
                await machine.let_go()
                info = await self._context.ask(
                    lambda: backend.reset_node(name),
                    deadline=RESET_DEADLINE,
                    node=name,
                    step="reset",
                )
                await machine.adopt(info)
                await self._faults.links.begin(name)
        except BenchscaleError as exc:
            raise placed(exc, name, "reset") from exc.__cause__
        await wait_for_all(node, node.spec.wait_for, self._context)
        self._ready[name].set()


class SyncUpkeep:
    """The same without `await`."""

    _portal: Portal
    _wrapped: Lab

    reset = blocking(Upkeep.reset)
    keep = blocking(Upkeep.keep)
