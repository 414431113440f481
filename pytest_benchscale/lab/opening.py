"""A lab for the duration of a block, outside pytest."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pytest_benchscale.backends import registry
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology

__all__ = ["opened", "opened_blocking"]

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


async def _make(source: Source, backend: str | None, options: LabOptions, portal: Portal) -> Lab:
    __tracebackhide__ = True
    topology = source if isinstance(source, Topology) else Topology.load(Path(source))
    wanted = backend or topology.backend or registry.AUTO
    choice = await registry.resolve(topology, wanted, options.images)
    return Lab(topology, registry.get(choice.name)(), portal=portal, options=options)
