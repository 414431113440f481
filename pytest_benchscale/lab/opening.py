"""A lab for the duration of a block, outside pytest."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Entry
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.lab.record import Kept
from pytest_benchscale.lab.registration import Registration
from pytest_benchscale.topology.model import Topology

__all__ = ["attach", "opened", "opened_blocking", "visit"]

Source = Topology | str | os.PathLike[str]


@asynccontextmanager
async def opened(
    source: Source, backend: str | None, options: LabOptions | None
) -> AsyncIterator[Lab]:
    """Bring a lab up for an `async with` block."""
    __tracebackhide__ = True
    with Portal() as portal:
        lab = await portal.call(_make, source, backend, options or LabOptions(), portal)
        try:
            await lab.up()
            yield lab
        finally:
            if lab.is_up:  # also when a cancellation came just after `up` had succeeded
                await lab.down()


@contextmanager
def opened_blocking(
    source: Source, backend: str | None, options: LabOptions | None
) -> Iterator[Lab]:
    """Bring a lab up for a `with` block."""
    __tracebackhide__ = True
    with Portal() as portal:
        lab = portal.call_blocking(_make, source, backend, options or LabOptions(), portal)
        try:
            portal.call_blocking(lab.up)
            yield lab
        finally:
            if lab.is_up:
                portal.call_blocking(lab.down)


async def attach(entry: Entry, kept: Kept, portal: Portal, options: LabOptions) -> Lab:
    """Return a lab that another process has kept; from now on it is ours. Called in the portal.

    Of `options` only what does not concern how the lab was built counts.

    Raises:
        BackendUnavailable: its backend cannot be used here and now.
        LabError: it is not whole any more; it is left as it was.
    """
    lab, plan = _as_built(entry, portal, options)
    registration = await Registration.take_over(entry)
    try:
        await lab.adopt(plan, registration, kept)
    except BaseException:
        if not lab.is_up:
            await registration.keep(kept)  # as it was
        raise
    return lab


async def visit(entry: Entry, kept: Kept, portal: Portal) -> Lab:
    """Return a lab that is kept, and stays so: `leave` is its end here. Called in the portal.

    Raises:
        BackendUnavailable, LabError: as `attach`.
    """
    lab, plan = _as_built(entry, portal, LabOptions())
    await lab.adopt(replace(plan, guest=True), Registration(entry.record, None), kept)
    return lab


def _as_built(entry: Entry, portal: Portal, options: LabOptions) -> tuple[Lab, LabPlan]:
    """Return the lab of a record, not yet up, and its plan as it was then."""
    record = entry.record
    topology = record.topology()
    options = replace(
        options,
        images=record.images,
        conditions=record.conditions,
        timeout_scale=record.timeout_scale,
        resettable=record.resettable,
        title=record.title,
    )
    plan = build_plan(topology, record.backend, options, lab_id=record.lab_id)
    plan = replace(plan, labels=record.labels, files=entry.directory)
    return Lab(topology, registry.get(record.backend)(), portal=portal, options=options), plan


async def _make(source: Source, backend: str | None, options: LabOptions, portal: Portal) -> Lab:
    __tracebackhide__ = True
    topology = source if isinstance(source, Topology) else Topology.load(Path(source))
    wanted = backend or topology.backend or registry.AUTO
    choice = await registry.resolve(topology, wanted, options.images)
    return Lab(topology, registry.get(choice.name)(), portal=portal, options=options)
