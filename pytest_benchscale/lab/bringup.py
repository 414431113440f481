"""From a plan to running nodes: networks first, then nodes in parallel as far as they depend on none."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio

from pytest_benchscale.backends.base import NetworkInfo, NetworkPlan, NodePlan
from pytest_benchscale.errors import (
    BackendUnavailable,
    BenchscaleError,
    LabError,
    NodeDied,
    NotSupported,
)
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.steps import READY, WAITS
from pytest_benchscale.topology.model import Deploy, WaitFor

__all__ = ["BringUp", "Created", "first_of", "placed", "wait_for_all"]

AT_ONCE = 64
"""How many nodes are created, deployed to and set up at the same time."""

CREATE_DEADLINE = 900.0  # seconds for one node: an image may have to be fetched, a machine to boot
NETWORK_DEADLINE = 60.0
SETUP_DEADLINE = 600.0  # for each command of `setup`
DEPLOY_DEADLINE = 600.0
CHECKPOINT_DEADLINE = 300.0
_SYNC = "! command -v sync >/dev/null || sync"


class Created:
    """What a lab has asked the backend for and must give back, also when the asking failed."""

    def __init__(self) -> None:
        self.opened = False
        self.networks: dict[str, NetworkInfo | None] = {}
        self.nodes: dict[str, None] = {}

    def __bool__(self) -> bool:
        return self.opened or bool(self.networks) or bool(self.nodes)

    def forget(self) -> None:
        """There is nothing to give back any more: the lab is somebody else's."""
        self.opened = False
        self.networks.clear()
        self.nodes.clear()


class BringUp:
    """One attempt to bring a lab up. What it creates is written into `created` beforehand."""

    def __init__(
        self,
        context: LabContext,
        created: Created,
        nodes: Mapping[str, Node],
        machines: Mapping[str, Machine],
        *,
        links: LinkStates,
        directory: Path,
    ) -> None:
        self._context = context
        self._backend = context.backend
        self._created = created
        self._nodes = nodes
        self._machines = machines
        self._links = links
        self._directory = directory
        self._at_once = anyio.CapacityLimiter(AT_ONCE)
        self._ready = {name: anyio.Event() for name in nodes}

    async def run(self, networks: Sequence[NetworkPlan], nodes: Sequence[NodePlan]) -> None:
        """Create everything; the first failure cancels the rest.

        Raises:
            BenchscaleError: what failed; other failures of the same moment are notes on it.
        """
        try:
            async with anyio.create_task_group() as group:
                for network in networks:
                    group.start_soon(self._network, network)
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(self._node, node)
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _network(self, plan: NetworkPlan) -> None:
        self._created.networks[plan.name] = None
        with self._context.doing(None, f"network {plan.name}"):
            info = await self._context.ask(
                lambda: self._backend.create_network(plan),
                deadline=NETWORK_DEADLINE,
                node=None,
                step=f"creating network {plan.name!r}",
            )
        self._created.networks[plan.name] = info

    async def _node(self, plan: NodePlan) -> None:
        doing = partial(self._context.doing, plan.name)
        for dependency in plan.spec.depends_on:
            with doing(f"{WAITS}{dependency}"):
                await self._ready[dependency].wait()
        node, machine = self._nodes[plan.name], self._machines[plan.name]
        async with self._at_once:
            with doing("create"):
                await self._create(plan, machine)
            for item in plan.spec.deploy:
                with doing(f"deploy {item.src}"):
                    await self._deploy(node, item)
            for number, command in enumerate(plan.spec.setup):
                with doing(f"setup[{number}]"):
                    await self._set_up(node, number, command)
            if self._backend.kill_loses_writes and (plan.spec.deploy or plan.spec.setup):
                with doing("sync"):
                    await self._sync(node)
        await wait_for_all(node, plan.spec.wait_for, self._context)
        if self._context.options.resettable:
            with doing("checkpoint"):
                await self._checkpoint(plan.name)
        if (steps := self._context.options.steps) is not None:
            steps.began(plan.name, READY)
        self._ready[plan.name].set()

    async def _create(self, plan: NodePlan, machine: Machine) -> None:
        self._created.nodes[plan.name] = None
        try:
            info = await self._context.ask(
                lambda: self._backend.create_node(plan),
                deadline=CREATE_DEADLINE,
                node=plan.name,
                step="create",
            )
        except BenchscaleError as exc:
            raise placed(exc, plan.name, "create") from exc.__cause__
        await machine.adopt(info)
        try:
            await self._links.begin(plan.name)
        except BenchscaleError as exc:
            raise placed(exc, plan.name, "network conditions") from exc.__cause__

    async def _checkpoint(self, name: str) -> None:
        try:
            await self._context.ask(
                lambda: self._backend.checkpoint(name),
                deadline=CHECKPOINT_DEADLINE,
                node=name,
                step="checkpoint",
            )
            self._machines[name].ask_the_way()
        except BenchscaleError as exc:
            raise placed(exc, name, "checkpoint") from exc.__cause__

    async def _deploy(self, node: Node, item: Deploy) -> None:
        source = self._directory / item.src
        try:
            with anyio.fail_after(self._context.scaled(DEPLOY_DEADLINE)):
                target = await _deployed(node, source, item)
                await node.put(source, item.dest)
                if item.mode is not None:
                    await node.exec(["chmod", item.mode, target], check=True)
        except TimeoutError:
            raise LabError(
                f"deploying {source} to node {node.name!r} took longer than "
                f"{self._context.scaled(DEPLOY_DEADLINE):g} s",
                node=node.name,
                step="deploy",
                resolution="on a slow machine, give more time with --benchscale-timeout-scale",
            ) from None
        except BenchscaleError as exc:
            raise placed(exc, node.name, f"deploy of {item.src}") from None

    async def _set_up(self, node: Node, number: int, command: str) -> None:
        step = f"setup[{number}]"
        try:
            timeout = self._context.scaled(SETUP_DEADLINE)
            result = await node.exec(command, timeout=timeout)
        except BenchscaleError as exc:
            raise placed(exc, node.name, step) from None
        if not result.ok:
            raise LabError(
                f"{step} of node {node.name!r} failed with {result.outcome}: {command}",
                node=node.name,
                step=step,
                details=result.output_excerpt(),
                resolution=f"correct the command under `setup:` of node {node.name!r}",
            )

    async def _sync(self, node: Node) -> None:
        """Have a node find again what it was set up with, should it be killed as soon as it is there."""
        try:
            await node.exec(_SYNC, timeout=self._context.scaled(SETUP_DEADLINE))
        except BenchscaleError as exc:
            raise placed(exc, node.name, "sync") from None


async def _deployed(node: Node, source: Path, item: Deploy) -> str:
    """Return where in the node a file will end up, and make the directories above it."""
    into = item.dest.endswith("/") or (await node.exec(["test", "-d", item.dest])).ok
    if into:
        await node.exec(["mkdir", "-p", "--", item.dest], check=True)
        return posixpath.join(item.dest, source.name)
    await node.exec(["mkdir", "-p", "--", posixpath.dirname(item.dest) or "/"], check=True)
    return item.dest


async def wait_for_all(node: Node, conditions: Iterable[WaitFor], context: LabContext) -> None:
    """Wait for what a node's `wait_for` declares.

    Raises:
        BenchscaleError: one did not come true.
    """
    for awaited in conditions:
        (what, value), *_ = awaited.model_dump(exclude_none=True).items()
        with context.doing(node.name, f"wait_for {what} {value}"):
            await _wait_for(node, awaited)


async def _wait_for(node: Node, awaited: WaitFor) -> None:
    try:
        if awaited.port is not None:
            await node.wait_for_port(awaited.port, awaited.timeout)
        if awaited.exec is not None:
            await node.wait_for_exec(awaited.exec, awaited.timeout)
        if awaited.file is not None:
            await node.wait_for_file(awaited.file, awaited.timeout)
        if awaited.log is not None:
            await node.wait_for_log(awaited.log, awaited.timeout)
    except BenchscaleError as exc:
        raise placed(exc, node.name, "wait_for") from None


def placed(error: BenchscaleError, node: str, step: str) -> BenchscaleError:
    """Return an error that says at which node and in which step it happened.

    That a backend cannot be used, or cannot do something, keeps its type.
    """
    if isinstance(error, BackendUnavailable | NotSupported):
        error.add_note(f"at node {node!r}, in step {step}")
        return error
    if isinstance(error, LabError) and error.node is not None:
        error.step = step
        return error
    return LabError(
        f"node {node!r} did not come up, in step {step}: {error.brief}",
        node=node,
        step=step,
        details=error.details,
        # A node that died is advised to be started again: not one of a lab that is rolled back.
        resolution=f"correct what node {node!r} runs, such as its `command`"
        if isinstance(error, NodeDied)
        else error.resolution,
    )


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that came first; the others become notes on it."""
    first, *others = _leaves(failures)
    for told in dict.fromkeys(map(str, others)):
        if told != str(first):  # such as one image that many nodes lack
            first.add_note(f"at the same time: {told}")
    return first


def _leaves(failure: BaseException) -> list[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for part in failure.exceptions for leaf in _leaves(part)]
    return [failure]
