"""How a node was when it was ready: the files of its container, as a committed layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytest_benchscale.backends.docker import failures
from pytest_benchscale.backends.docker.containers import Containers
from pytest_benchscale.backends.docker.engine import ApiError
from pytest_benchscale.backends.docker.errand import Errand
from pytest_benchscale.backends.docker.node import DockerNode
from pytest_benchscale.backends.docker.removal import Remover
from pytest_benchscale.errors import LabError

__all__ = ["discard", "take"]

REPOSITORY = "benchscale-checkpoint"
_GONE = 404


async def take(containers: Containers, node: DockerNode) -> None:
    """Remember the files of a running node: as an image, unless nothing has run in it.

    Raises:
        LabError: it has volumes of its own, of which an image has nothing; or the daemon refused.
        BackendUnavailable: the daemon does not answer.
    """
    plan, engine = node.plan, containers.engine
    assert node.container is not None  # noqa: S101  it runs
    what = f"the files of node {plan.name!r} could not be remembered"
    with failures.told(what, "checkpoint", plan.name):
        known = await containers.inspect(node.container)
    volumes = [one["Destination"] for one in known["Mounts"] if one.get("Type") == "volume"]
    if volumes:
        raise LabError(
            f"node {plan.name!r} cannot be reset: its image keeps {', '.join(volumes)} in a volume, "
            "which is not among a container's files",
            node=plan.name,
            step="checkpoint",
            resolution="have it keep its data elsewhere, such as by a variable under `env:`; or do without "
            "reset for this topology",
        )
    if not _has_changed(node):
        return
    async with _still(node):
        node.commit = Errand(
            engine,
            engine.client.commit,
            container=node.container,
            repository=REPOSITORY,
            tag=f"{containers.lab.lab_id}-{plan.hostname}",
            conf={"Labels": containers.labels},
        )
        with failures.told(what, "checkpoint", plan.name):
            node.checkpoint = await node.commit.identifier()


async def discard(remover: Remover, node: DockerNode) -> None:
    """Remove a node's checkpoint; no container is made of it any more."""
    made = await node.commit.outcome() if node.commit is not None else node.checkpoint
    if made is None:
        return
    try:
        # Without pruning: a parent that is not ours is somebody's cache.
        await remover.ask(remover.client.remove_image, made, noprune=True)
    except ApiError as error:
        if error.status != _GONE:
            raise
    node.commit = node.checkpoint = None


def _has_changed(node: DockerNode) -> bool:
    """Return whether anything has run in a node that may have changed its files."""
    spec = node.plan.spec
    return bool(
        spec.setup
        or spec.deploy
        or spec.command
        or node.own_command
        or any(awaited.exec is not None for awaited in spec.wait_for)
    )


@asynccontextmanager
async def _still(node: DockerNode) -> AsyncIterator[None]:
    """Have nothing start in a node: the daemon pauses it, and what is half-way would hold that up."""
    transport = node.transport
    if transport is None:
        yield
        return
    await transport.quiesce()
    try:
        yield
    finally:
        transport.resume()
