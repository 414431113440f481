"""How a lab is at a moment: what there is to tell of it when a test failed, or when it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault_log import FaultRecord
from pytest_benchscale.lab.history import CommandRecord
from pytest_benchscale.lab.link_wishes import LinkWishes, Stated
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.topology.model import Topology

__all__ = ["Condition", "Findings", "NodeFinding", "examine", "read_logs"]

DEADLINE = 5.0
"""Seconds, times the scale, after which what is not known by then is left out."""


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """One node. `state` is its status, or says why it has none; `log` is None where there is none to read."""

    name: str
    state: str
    reason: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    log: str | None = None

    @property
    def condition(self) -> str:
        """The state, with the reason for it."""
        return self.state + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Condition:
    """What acts on all that a node sends on a network; `origin` is `declared`, `set` or `fault`."""

    node: str
    network: str
    figures: Stated
    origin: str


@dataclass(frozen=True, slots=True)
class Findings:
    """A lab at `time`, as `time.time()` tells it. `commands` and `faults` are all that it remembers.

    It was not up when it could not be brought up; one that was up can be `gone` since.
    """

    topology: Topology
    backend: str
    place: Mapping[str, str]
    lab_id: str | None
    time: float
    networks: Mapping[str, str]
    nodes: tuple[NodeFinding, ...]
    commands: tuple[CommandRecord, ...]
    faults: tuple[FaultRecord, ...]
    conditions: tuple[Condition, ...]
    is_up: bool
    gone: bool = False


async def examine(
    topology: Topology,
    plan: LabPlan | None,
    context: LabContext,
    machines: Mapping[str, Machine],
    *,
    created: Collection[str],
    links: LinkWishes,
    is_up: bool,
) -> Findings:
    """Find out how a lab is, up or half built. `created` are the nodes that the backend was asked for.

    Takes no longer than the deadline and raises nothing: what cannot be learned says why.
    """
    existing = [machines[name] for name in created if machines[name].info is not None]
    states, logs = await asyncio.gather(
        _all_of({machine.name: machine.refresh for machine in existing}, context),
        read_logs(context, [machines[name] for name in created]),
    )
    return Findings(
        topology=topology,
        backend=context.backend.name,
        place=dict(context.backend.place()) if plan else {},
        lab_id=plan.lab_id if plan else None,
        time=time.time(),
        networks={network.name: str(network.subnet) for network in plan.networks} if plan else {},
        nodes=tuple(
            replace(_node(machine, states.get(name), created), log=logs.get(name))
            for name, machine in machines.items()
        ),
        commands=tuple(context.history),
        faults=tuple(replace(record) for record in context.faults),  # they will end
        conditions=tuple(_conditions(machines, links)),
        is_up=is_up,
    )


async def read_logs(
    context: LabContext, machines: Iterable[Machine], *, timestamps: bool = False
) -> dict[str, str]:
    """Return by node what it has said, or why that cannot be read; takes no longer than the deadline."""
    answers = await _all_of(
        {machine.name: partial(machine.logs, timestamps=timestamps) for machine in machines},
        context,
    )
    return {
        name: answer if isinstance(answer, str) else f"(the log could not be read: {answer})\n"
        for name, answer in answers.items()
    }


async def _all_of(
    asked: Mapping[str, Callable[[], Coroutine[Any, Any, object]]], context: LabContext
) -> dict[str, object]:
    """Ask all at once; return by node the answer, or what went wrong instead, in words."""
    seconds = context.scaled(DEADLINE)
    answers: dict[str, object] = {}

    async def ask(name: str, question: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            answers[name] = await question()
        except BenchscaleError as exc:
            answers[name] = _Unknown(exc.brief)
        except Exception as exc:  # noqa: BLE001  whatever it is, it must not hide the test's own failure
            answers[name] = _Unknown(f"{type(exc).__name__}: {exc}")

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for name, question in asked.items():
                group.start_soon(ask, name, question)
    late = _Unknown(f"no answer within {seconds:g} s")
    return {name: answers.get(name, late) for name in asked}


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Why there is no answer."""

    why: str

    def __str__(self) -> str:
        return self.why


def _node(machine: Machine, answer: object, created: Collection[str]) -> NodeFinding:
    info = machine.info
    if info is None:
        state = "did not come up" if machine.name in created else "not created"
        return NodeFinding(machine.name, state)
    known = NodeFinding(
        machine.name,
        str(info.status),
        info.reason,
        {network: str(address) for network, address in info.addresses.items()},
    )
    if isinstance(answer, _Unknown):
        return replace(known, state="unknown", reason=f"{answer}; it was {info.status}")
    return known


def _conditions(machines: Mapping[str, Machine], links: LinkWishes) -> Iterable[Condition]:
    settings = links.settings()
    for name in machines:
        for attachment in links.on(None, name):
            figures = links.figures(attachment)
            if figures.is_noop:
                continue
            standing = links.standing(attachment)
            origin = "set" if attachment in settings else "declared"
            stated = figures.stated()
            yield Condition(
                name, attachment.network, stated, origin if stated == standing else "fault"
            )
