"""Measuring between a lab's nodes: the paths there are, and who sends and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import anyio

from pytest_benchscale.backends.base import InterfacePlan, NodePlan, NodeStatus
from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.machine import ASK_DEADLINE, Machine
from pytest_benchscale.network.echo import Echoes, Path, measure
from pytest_benchscale.network.matrix import Matrix
from pytest_benchscale.topology.addressing import IpAddress

__all__ = ["COUNT", "INTERVAL", "ProbeOptions", "measure_pairs"]

COUNT = 5
"""Requests for each path, where nothing else is said."""

INTERVAL = 0.01
"""Seconds between two requests of a path."""

_PATIENCE = 1.0  # seconds, beyond the latencies that are declared
_UP = frozenset({NodeStatus.RUNNING, NodeStatus.PAUSED})


class ProbeOptions(TypedDict, total=False):
    """The options of `Lab.probe`.

    `count` requests are sent on each path, `interval` seconds apart, to the first address by which the one
    node reaches the other. With `network`, only the nodes on it take part, with their addresses there.
    Answers count that come up to `patience` seconds after the last request; without, that is 1 s and what
    the declared latencies take.
    """

    network: str | None
    count: int
    interval: float
    patience: float | None


async def measure_pairs(
    context: LabContext,
    machines: Mapping[str, Machine],
    pairs: Iterable[tuple[str, str]],
    *,
    network: str | None = None,
    count: int = COUNT,
    interval: float = INTERVAL,
    patience: float | None = None,
) -> Matrix:
    """Measure from the first to the second of each pair; of `network` only those that are both on it.

    The matrix has the nodes of `machines` that are on the network, in their order.

    Raises:
        LabError: the lab is not up, has no such network, or a node cannot be measured from.
        ValueError: a figure makes no sense.
    """
    _check(count, interval, patience)
    plans = {name: _plan(machine) for name, machine in machines.items()}
    if network is not None:
        plans = _on(network, plans)
    wanted = [pair for pair in pairs if pair[0] in plans and pair[1] in plans]
    paths = [Path(a, b, _address(plans[a], machines[b], network)) for a, b in wanted]
    if patience is None:
        patience = context.scaled(_PATIENCE) + _declared_delay(plans.values())
    stations = await _stations(context, [machines[name] for name in _named(paths, plans)])
    try:
        return await measure(
            stations,
            paths,
            count=count,
            interval=interval,
            patience=patience,
            nodes=list(plans),
        )
    finally:
        _close(stations.values())


def _check(count: int, interval: float, patience: float | None) -> None:
    if count < 1:
        raise ValueError(f"count is 1 or more, not {count}")
    if interval < 0:
        raise ValueError(f"interval is a number of seconds, not {interval:g}")
    if patience is not None and patience <= 0:
        raise ValueError(f"patience is more than 0 seconds, not {patience:g}")


def _plan(machine: Machine) -> NodePlan:
    machine.existing("probe")
    assert machine.plan is not None  # noqa: S101  it exists
    return machine.plan


def _on(network: str, plans: Mapping[str, NodePlan]) -> dict[str, NodePlan]:
    """Return the plans of the nodes on a network."""
    here = {name: plan for name, plan in plans.items() if _interface(plan, network) is not None}
    if not here:
        known = dict.fromkeys(one.network for plan in plans.values() for one in plan.interfaces)
        raise LabError(
            f"no node is on a network {network!r}",
            step="probe",
            details=f"there are: {', '.join(known)}",
        )
    return here


def _interface(plan: NodePlan, network: str) -> InterfacePlan | None:
    return next((one for one in plan.interfaces if one.network == network), None)


def _address(source: NodePlan, destination: Machine, network: str | None) -> IpAddress:
    """Return the address by which a node reaches another; the real one, where machines have their own."""
    plan, info = _plan(destination), destination.existing("probe")
    if network is not None:
        return info.addresses[network]
    planned = source.hosts[destination.name][0]
    for interface in plan.interfaces:
        if interface.address.ip == planned:
            return info.addresses.get(interface.network, planned)
    return planned


def _declared_delay(plans: Iterable[NodePlan]) -> float:
    """Return the longest round trip, in seconds, that the declared conditions make of one link each."""
    worst = 0.0
    for plan in plans:
        for interface in plan.interfaces:
            if (conditions := interface.conditions) is not None:
                delay = (conditions.latency_ms or 0.0) + 3 * (conditions.jitter_ms or 0.0)
                worst = max(worst, delay)
    return 2 * worst / 1000


def _named(paths: Sequence[Path], plans: Mapping[str, NodePlan]) -> list[str]:
    named = {name for path in paths for name in (path.source, path.destination)}
    return [name for name in plans if name in named]


async def _stations(context: LabContext, machines: Sequence[Machine]) -> dict[str, Echoes | None]:
    """Return who can send, by name; None for who may but answer. Who is down is left out.

    Raises:
        BenchscaleError: the first failure, in the order of the machines.
    """
    found: dict[str, Echoes | None] = {}
    failures: dict[str, BenchscaleError] = {}

    async def find(machine: Machine) -> None:
        try:
            if (await machine.refresh()).status in _UP:
                found[machine.name] = await context.ask(
                    lambda: context.backend.echoes(machine.name),
                    deadline=ASK_DEADLINE,
                    node=machine.name,
                    step="probe",
                )
        except NodeDied:
            pass  # a moment ago
        except BenchscaleError as error:
            failures[machine.name] = error

    try:
        async with anyio.create_task_group() as group:
            for machine in machines:
                group.start_soon(find, machine)
    except BaseException:
        _close(found.values())
        raise
    for machine in machines:
        if machine.name in failures:
            _close(found.values())
            raise failures[machine.name]
    return {machine.name: found[machine.name] for machine in machines if machine.name in found}


def _close(stations: Iterable[Echoes | None]) -> None:
    for echoes in stations:
        if echoes is not None:
            echoes.close()
