"""A lab: the running machines of one topology."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

import anyio

from pytest_benchscale.backends.base import Backend, Capability, LabPlan, NetworkInfo
from pytest_benchscale.errors import BenchscaleError, LabError, SubnetTaken
from pytest_benchscale.lab.arguments import CommandLike, ExecOptions, build_command, did_you_mean
from pytest_benchscale.lab.artifacts import write_artifacts
from pytest_benchscale.lab.background import Background
from pytest_benchscale.lab.bringup import BringUp, Created
from pytest_benchscale.lab.check import require_runnable
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.faults import Faults
from pytest_benchscale.lab.findings import Findings, examine, read_logs
from pytest_benchscale.lab.history import History
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.network_faults import NetworkFaults
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.lab.portal import Portal, on_portal
from pytest_benchscale.lab.registration import Registration
from pytest_benchscale.lab.teardown import TearDown
from pytest_benchscale.lab.upkeep import Upkeep
from pytest_benchscale.results import ExecResult
from pytest_benchscale.topology.model import Topology

if TYPE_CHECKING:
    from pytest_benchscale.lab.sync import SyncLab

__all__ = ["Lab", "UnknownNode"]

OPEN_DEADLINE = 120.0  # seconds
_PLANS = 5  # how often subnets are chosen anew, while others take those that were free


class UnknownNode(LabError, KeyError):
    """`lab[name]`: the lab has no node of that name."""


class Lab(NetworkFaults, Background, Upkeep):
    """The machines and networks of one topology on one backend, from `up` to `down`.

    Every method may be called from any event loop; `sync` is the same without `await`.
    """

    def __init__(
        self,
        topology: Topology,
        backend: Backend,
        *,
        portal: Portal,
        options: LabOptions | None = None,
    ) -> None:
        self.portal = self._portal = portal
        self._topology = topology
        self._context = LabContext(portal, backend, options or LabOptions())
        self._machines = {node.name: Machine(node.name, self._context) for node in topology.nodes}
        self._faults = Faults(self._context, topology, self._machines)
        self._nodes = {
            node.name: Node(node, self._machines[node.name], self._faults)
            for node in topology.nodes
        }
        self._created = Created()
        self._plan: LabPlan | None = None
        self._registration: Registration | None = None
        self._begun = False
        self._turn = asyncio.Lock()
        self._up = False

    @classmethod
    def open(
        cls,
        source: Topology | str | os.PathLike[str],
        *,
        backend: str | None = None,
        options: LabOptions | None = None,
    ) -> AbstractAsyncContextManager[Lab]:
        """Bring up the lab of a topology or its file for the duration of an `async with` block.

        `backend` is a name or `auto`; without one the file's counts. The lab has an event-loop
        thread of its own.
        """
        from pytest_benchscale.lab.opening import opened  # noqa: PLC0415  it builds on this module

        return opened(source, backend, options)

    @classmethod
    def open_sync(
        cls,
        source: Topology | str | os.PathLike[str],
        *,
        backend: str | None = None,
        options: LabOptions | None = None,
    ) -> AbstractContextManager[Lab]:
        """Do the same for a `with` block; `lab.sync` has the calls without `await`."""
        from pytest_benchscale.lab.opening import opened_blocking  # noqa: PLC0415

        return opened_blocking(source, backend, options)

    def __repr__(self) -> str:
        return f"<Lab {self.name!r} on {self.backend!r}: {'up' if self._up else 'not up'}>"

    def __getitem__(self, name: str) -> Node:
        __tracebackhide__ = True
        try:
            return self._nodes[name]
        except KeyError:
            raise UnknownNode(
                f"lab {self.name!r} has no node {name!r}{did_you_mean(name, self._nodes)}",
                step="look-up",
                details=f"its nodes: {', '.join(self._nodes)}",
            ) from None

    @property
    def name(self) -> str:
        """The topology's name."""
        return self._topology.name

    @property
    def lab_id(self) -> str | None:
        """What tells this lab from all others, once it was brought up."""
        return self._plan.lab_id if self._plan else None

    @property
    def topology(self) -> Topology:
        """What the file declares."""
        return self._topology

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._context.backend.name

    @property
    def options(self) -> LabOptions:
        """What the session decided."""
        return self._context.options

    @property
    def is_up(self) -> bool:
        """Whether the lab is up."""
        return self._up

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by name, in the order of the file."""
        return MappingProxyType(self._nodes)

    @property
    def networks(self) -> Mapping[str, NetworkInfo]:
        """The networks that exist, by name, in the order of the file."""
        made = self._created.networks
        infos = {network.name: made.get(network.name) for network in self._topology.networks}
        return {name: info for name, info in infos.items() if info is not None}

    @property
    def history(self) -> History:
        """The commands that were run, oldest first."""
        return self._context.history

    @property
    def sync(self) -> SyncLab:
        """The same lab without `await`."""
        from pytest_benchscale.lab.sync import SyncLab  # noqa: PLC0415  it builds on this module

        return SyncLab(self)

    async def up(self) -> None:
        """Bring the lab up. Whatever ends it early, a failure or a cancellation, rolls it back.

        Raises:
            BackendUnavailable: the backend cannot be used here.
            NotSupported: the topology needs what the backend does not have.
            LabError: a node or network failed; says which, in which step, with its last output.
        """
        __tracebackhide__ = True
        was_up = self._up
        try:
            await self._bring_up()
        except BaseException:
            if (
                self._up and not was_up
            ):  # the caller was cancelled on its way back, with everything done
                with anyio.CancelScope(shield=True):
                    await self.down()
            raise

    @on_portal
    async def _bring_up(self) -> None:
        __tracebackhide__ = True
        async with self._turn:
            if self._begun:
                raise LabError(
                    f"lab {self.name!r} was up before",
                    step="up",
                    resolution="make a new Lab: each lives once",
                )
            require_runnable(self._context, self._topology)
            self._begun = True
            try:
                await self._build()
            except BaseException as exc:
                if isinstance(exc, BenchscaleError):  # not of who is in a hurry, as after Ctrl-C
                    await self._take_leave()
                for error in await self._give_back():
                    exc.add_note(f"while rolling back: {_in_words(error)}")
                raise
            self._up = True

    @on_portal
    async def down(self) -> None:
        """Take the lab down: collect logs, remove nodes, then networks. Safe to call twice.

        Runs to its end also when the caller is cancelled.

        Raises:
            LabError: something could not be removed; tells of everything that went wrong.
        """
        __tracebackhide__ = True
        with anyio.CancelScope(shield=True):
            async with self._turn:
                await self._take_leave()
                self._up = False
                errors = await self._give_back()
        if errors:
            raise LabError(
                f"lab {self.name!r} on {self.backend!r} was not taken down cleanly",
                step="down",
                details="\n".join(_in_words(error) for error in errors),
            )

    @on_portal
    async def examine(self) -> Findings:
        """Find out how the lab is, for a report; what cannot be learned in time says why."""
        return await examine(
            self._topology,
            self._plan,
            self._context,
            self._machines,
            created=self._created.nodes,
            links=self._faults.links,
            is_up=self._up,
        )

    @on_portal
    async def exec(
        self, command: CommandLike, **options: Unpack[ExecOptions]
    ) -> dict[str, ExecResult]:
        """Run a command on every node at once; takes the options of `Node.exec`.

        Raises:
            BenchscaleError: the first node's, in file order; those of others are notes on it.
        """
        __tracebackhide__ = True
        results: dict[str, ExecResult] = {}
        failures: dict[str, BenchscaleError] = {}

        async def run(node: Node) -> None:
            try:
                results[node.name] = await node.exec(command, **options)
            except BenchscaleError as exc:
                failures[node.name] = exc

        build_command(command, options.get("env"), options.get("cwd"), options.get("user"))
        async with anyio.create_task_group() as group:
            for node in self._nodes.values():
                group.start_soon(run, node)
        in_order = [failures[name] for name in self._nodes if name in failures]
        for other in in_order[1:]:
            in_order[0].add_note(f"and also: {other.brief}")
        if in_order:
            raise in_order[0].with_traceback(None)
        return {name: results[name] for name in self._nodes}

    async def _build(self) -> None:
        """Create everything; where somebody else was faster to take a free subnet, with another one."""
        context, backend = self._context, self._context.backend
        self._created.opened = True
        taken = [*self.options.taken]
        for attempt in range(_PLANS, 0, -1):
            await context.ask(backend.probe, deadline=OPEN_DEADLINE, node=None, step="probe")
            taken += await context.ask(
                backend.taken_subnets, deadline=OPEN_DEADLINE, node=None, step="addressing"
            )
            plan = build_plan(
                self._topology, self.backend, replace(self.options, taken=tuple(taken))
            )
            try:
                self._registration = await Registration.begin(plan, self._topology, context)
                self._plan = plan = replace(plan, files=self._registration.directory)
                await self._build_as(plan)
            except SubnetTaken as exc:
                declared = {network.subnet for network in self._topology.networks}
                if exc.subnet in declared or attempt == 1:
                    raise
                taken.append(exc.subnet)
                tear_down = TearDown(context, self._created, self._registration)
                await tear_down.run(self._machines.values())
                if tear_down.errors:
                    raise
                self._created.opened = True
            else:
                return

    async def _build_as(self, plan: LabPlan) -> None:
        context, backend = self._context, self._context.backend
        await context.ask(
            lambda: backend.open(plan), deadline=OPEN_DEADLINE, node=None, step="open"
        )
        for node in plan.nodes:
            self._machines[node.name].plan = node
        await self._faults.links.require(
            *(one.conditions for node in plan.nodes for one in node.interfaces if one.conditions)
        )
        bring_up = BringUp(
            context,
            self._created,
            self._nodes,
            self._machines,
            links=self._faults.links,
            directory=plan.directory,
        )
        await bring_up.run(plan.networks, plan.nodes)

    async def _take_leave(self) -> None:
        """Tell who wants to know how the lab was, before it goes."""
        if self._created and self._plan is not None and self.options.leaving is not None:
            self.options.leaving(await self.examine())

    async def _give_back(self) -> list[Exception]:
        """Remove whatever was created, after its logs were kept; return what went wrong."""
        if not self._created:
            return []
        tear_down = TearDown(self._context, self._created, self._registration)
        plan, artifacts = self._plan, self.options.artifacts
        with anyio.CancelScope(shield=True):
            if plan is not None and artifacts is not None:
                await tear_down.attempt(
                    lambda: self._keep_artifacts(artifacts, plan), "writing the artifacts"
                )
            for machine in self._machines.values():
                machine.info = None
            await tear_down.run(self._machines.values())
        return tear_down.errors

    async def _keep_artifacts(self, directory: Path, plan: LabPlan) -> None:
        timestamps = Capability.LOG_TIMES in self._context.backend.capabilities
        machines = [self._machines[name] for name in self._created.nodes]
        logs = await read_logs(self._context, machines, timestamps=timestamps)
        write_artifacts(directory, self._topology, plan, self._context, logs)


def _in_words(error: Exception) -> str:
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{error}{notes}"
