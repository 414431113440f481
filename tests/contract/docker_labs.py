"""Labs on Docker for the tests of what is special to that backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

from pytest_benchscale import Lab
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.model import Topology
from tests.daemons.endpoints import connection, find
from tests.daemons.images import reference

__all__ = ["containers", "daemon", "networks", "of_lab", "opened", "topology"]


def topology(text: str, directory: Path | None = None, image: str = "debian") -> Topology:
    """Load YAML text, with a test image on every node that names none."""
    loaded = load_text(text, path=directory / "topology.yaml" if directory else None)
    nodes = tuple(
        node if node.image else node.model_copy(update={"image": reference(image)})
        for node in loaded.nodes
    )
    return loaded.model_copy(update={"nodes": nodes})


def opened(
    text: str, directory: Path | None = None, image: str = "debian"
) -> AbstractAsyncContextManager[Lab]:
    """Bring a lab up for a block."""
    return Lab.open(topology(text, directory, image), backend="docker")


@contextmanager
def daemon() -> Iterator[Any]:
    """Look at the daemon by other means than ours."""
    with connection(find("docker")) as client:
        yield client.api


def containers(api: Any, lab: Lab) -> dict[str, Any]:
    """Return what the daemon knows of the containers that are a lab's nodes, by node."""
    return {
        one["Labels"]["benchscale.node"]: api.inspect_container(one["Id"])
        for one in of_lab(api, lab)
        if "_" not in one["Names"][0]
    }


def of_lab(api: Any, lab: Lab) -> list[dict[str, Any]]:
    """Return all containers of a lab, also those that are no node yet, or any more."""
    found = api.containers(all=True, filters={"label": f"benchscale.lab={lab.lab_id}"})
    return list(found)


def networks(api: Any, lab: Lab) -> dict[str, Any]:
    """Return what the daemon knows of a lab's networks, by name."""
    found = api.networks(filters={"label": f"benchscale.lab={lab.lab_id}"})
    return {one["Labels"]["benchscale.network"]: api.inspect_network(one["Id"]) for one in found}
