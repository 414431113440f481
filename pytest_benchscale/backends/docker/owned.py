"""What labs have at a daemon, found by its labels, and removing one lab's when its own process is gone.

A thing belongs to a lab when it carries both labels, that of the run and that of the lab. Of images only
those count that have a name that this project gives: one that somebody has made of a container of ours has
inherited its labels, and is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.backends.docker.builds import LAB_LABEL
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.removal import Remover
from pytest_benchscale.errors import BenchscaleError, LabError

__all__ = ["listed", "remove", "remove_images"]

_RUN_LABEL = "benchscale.run"
_OUR_IMAGES = "benchscale-"
_ORDER = ("container", "network", "image")  # what uses something goes before it
_GONE = 404


async def listed(
    engine: Engine, owner: str | None, lab_id: str | None = None
) -> Sequence[OwnedThing]:
    """Return what a run has, or one lab of it; without a run, what any has.

    Raises:
        ApiError, BackendUnavailable: the daemon does not tell.
    """
    client = engine.client
    filters = {"label": [_RUN_LABEL if owner is None else f"{_RUN_LABEL}={owner}"]}
    found = {
        "container": await engine.call(client.containers, all=True, filters=filters),
        "network": await engine.call(client.networks, filters=filters),
        "image": filter(_is_our_image, await engine.call(client.images, filters=filters)),
    }
    labelled = [
        (kind, thing["Id"], thing.get("Labels") or {}) for kind in _ORDER for thing in found[kind]
    ]
    return [
        OwnedThing(kind, identifier, labels.get(LAB_LABEL, ""), labels[_RUN_LABEL])
        for kind, identifier, labels in labelled
        # Again, since a daemon that does not understand a filter shows everything.
        if _RUN_LABEL in labels
        and owner in (None, labels[_RUN_LABEL])
        and lab_id in (None, labels.get(LAB_LABEL))
    ]


async def remove(engine: Engine, dialect: Dialect, owner: str, lab_id: str) -> None:
    """Remove what one lab of a run has.

    Raises:
        ApiError, BackendUnavailable: the daemon does not tell what there is.
        LabError: something could not be removed; the rest was.
    """
    things, errors = await listed(engine, owner, lab_id), []
    remover = Remover(engine, 1.0, dialect)
    for kind in _ORDER:
        these = [thing for thing in things if thing.kind == kind]
        work = (_remove(engine, remover, thing) for thing in these)
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        for thing, outcome in zip(these, outcomes, strict=True):
            if isinstance(outcome, ApiError | BenchscaleError):
                errors.append(f"{kind} {thing.identifier}: {outcome}")
            elif outcome is not None:
                raise outcome
    if errors:
        raise LabError(
            f"lab {lab_id}: {len(errors)} of its {len(things)} things could not be removed",
            step="gc",
            details="\n".join(errors),
        )


async def remove_images(engine: Engine, remover: Remover, labels: Mapping[str, str]) -> None:
    """Remove the images that were made for a lab, by whichever process that had it.

    Raises:
        ApiError, BackendUnavailable: that failed.
    """
    if _RUN_LABEL not in labels:
        return
    for thing in await listed(engine, labels[_RUN_LABEL], labels[LAB_LABEL]):
        if thing.kind == "image":
            await _remove(engine, remover, thing)


async def _remove(engine: Engine, remover: Remover, thing: OwnedThing) -> None:
    if thing.kind == "container":
        state = await _state(engine, thing.identifier)
        await remover.container(thing.identifier, paused=state == "paused")
    elif thing.kind == "network":
        await remover.network(thing.identifier)
    else:
        try:
            # Without pruning: a parent that is not ours is somebody's cache.
            await remover.ask(engine.client.remove_image, thing.identifier, noprune=True)
        except ApiError as error:
            if error.status != _GONE:
                raise


async def _state(engine: Engine, container: str) -> str:
    """Return the daemon's word for the state of a container; empty: it is gone."""
    try:
        known = await engine.call(engine.client.inspect_container, container)
    except ApiError as error:
        if error.status != _GONE:
            raise
        return ""
    return str(known["State"]["Status"])


def _is_our_image(image: Mapping[str, Any]) -> bool:
    names = [name.rpartition("/")[2] for name in image.get("RepoTags") or ()]
    return bool(names) and all(name.startswith(_OUR_IMAGES) for name in names)
