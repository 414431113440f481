"""Leaving a lab's containers and networks to themselves, and finding them again from another process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anyio import to_thread

from pytest_benchscale.backends.base import LabPlan, NodePlan, NodeStatus
from pytest_benchscale.backends.docker import devices, failures
from pytest_benchscale.backends.docker.containers import NETWORK_LABEL, NODE_LABEL, Containers
from pytest_benchscale.backends.docker.errand import Done
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.node import DockerNode, how_it_ended
from pytest_benchscale.backends.docker.spec import published
from pytest_benchscale.errors import LabError

__all__ = ["find_nodes", "image_ids", "state_of"]

_UNLABELLED = "it has lost the labels that prove it to be this lab's"


async def image_ids(containers: Containers, plan: LabPlan) -> Mapping[str, str]:
    """Return, by node, the id of the image that a container would be made of now.

    Raises:
        LabError: the image cannot be had any more.
        BackendUnavailable: the daemon does not answer.
    """
    engine, known = containers.engine, dict[tuple[str, str | None], str]()
    for node in plan.nodes:
        key = node.image, node.spec.platform
        if key not in known:
            reference = await containers.image(node)
            with failures.told(f"the image {reference!r} cannot be looked at", "image", node.name):
                found = await engine.call(engine.client.inspect_image, reference)
            known[key] = str(found["Id"])
    return {node.name: known[node.image, node.spec.platform] for node in plan.nodes}


def state_of(nodes: Mapping[str, DockerNode], networks: Mapping[str, str]) -> dict[str, Any]:
    """Return what `find_nodes` needs to find the lab again, as JSON has it."""
    return {
        "nodes": {
            name: {
                "container": node.container,
                "image": node.image,
                "own_command": node.own_command,
                "is_plugged": node.is_plugged,
                "names": str(node.names) if node.names is not None else None,
                "checkpoint": node.checkpoint,
                "status": str(node.status),
                "reason": node.reason,
            }
            for name, node in nodes.items()
        },
        "networks": dict(networks),
    }


async def find_nodes(containers: Containers, state: Mapping[str, Any]) -> dict[str, DockerNode]:
    """Return the nodes of a kept lab, once everything of it was found as it was kept.

    By id and by label: what has only one of both is not the lab's.

    Raises:
        LabError: something is missing, or is not as it was; tells of everything. Nothing was changed.
        BackendUnavailable: the daemon does not answer.
    """
    engine, plan = containers.engine, containers.lab
    labels = {f"{key}={value}" for key, value in containers.labels.items()}
    filters = {"label": sorted(labels)}
    with failures.told("what is left of the lab cannot be listed", "adopt"):
        there = await engine.call(engine.client.containers, all=True, filters=filters)
        around = await engine.call(engine.client.networks, filters=filters)
        complaints = [
            *_missing("network", state["networks"], around, NETWORK_LABEL),
            *_missing(
                "node",
                {name: one["container"] for name, one in state["nodes"].items()},
                there,
                NODE_LABEL,
            ),
        ]
        nodes = {}
        if not complaints:
            kept = [state["nodes"][node.name] for node in plan.nodes]
            all_known = await asyncio.gather(
                *(containers.inspect(one["container"]) for one in kept)
            )
            for node, one, known in zip(plan.nodes, kept, all_known, strict=True):
                # In a thread: to look at links of ours blocks.
                changes = _changes(containers, node, one, known)
                complaints += await to_thread.run_sync(list, changes)
                nodes[node.name] = _found(node, one, known)
    if complaints:
        raise LabError(
            f"the lab {plan.name!r} ({plan.lab_id}) is not whole any more: {complaints[0]}",
            step="adopt",
            details="\n".join([*complaints, "nothing was changed"]),
            resolution="remove what is left with `benchscale gc`, or `benchscale down`, and bring the "
            "lab up anew",
        )
    return nodes


def _missing(
    kind: str, kept: Mapping[str, str], there: list[Mapping[str, Any]], label: str
) -> Iterator[str]:
    """Yield what is not there any more, or not with our labels."""
    found = {thing["Id"]: (thing.get("Labels") or {}).get(label) for thing in there}
    for name, identifier in kept.items():
        if identifier not in found:
            yield f"the {'container' if kind == 'node' else 'network'} of {kind} {name!r} is not there"
        elif found[identifier] != name:
            yield f"{kind} {name!r}: {_UNLABELLED}"


def _changes(
    containers: Containers, plan: NodePlan, kept: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is otherwise with a node than when it was kept. Blocks."""
    state, wanted = known["State"], NodeStatus(kept["status"])
    now = "paused" if state.get("Paused") else "running" if state["Running"] else "not running"
    before = "not running" if wanted in {NodeStatus.STOPPED, NodeStatus.DEAD} else str(wanted)
    if now != before:
        yield f"node {plan.name!r} was {before} and is {now}"
        return
    if now == "not running":
        return
    if kept.get("is_plugged"):
        if not _is_plugged(plan, state["Pid"]):
            yield f"node {plan.name!r} has lost a link of its own"
        return
    attached = known["NetworkSettings"].get("Networks") or {}
    for interface in plan.interfaces:
        ends = attached.get(containers.wirings[interface.network].docker_name) or {}
        address = str(interface.address.ip)
        if address not in (ends.get("IPAddress"), ends.get("GlobalIPv6Address")):
            yield f"node {plan.name!r} is not on network {interface.network!r} as {address}"


def _is_plugged(plan: NodePlan, pid: int) -> bool:
    try:
        inside(pid, functools.partial(devices.find, plan.interfaces))
    except OSError:
        return False
    return True


def _found(plan: NodePlan, kept: Mapping[str, Any], known: Mapping[str, Any]) -> DockerNode:
    """Return a node that was found."""
    node, state = DockerNode(plan), dict(known["State"])
    node.container, node.image = kept["container"], kept["image"]
    node.checkpoint, node.own_command = kept["checkpoint"], kept["own_command"]
    node.is_plugged = kept.get("is_plugged", False)
    node.names = Path(kept["names"]) if kept.get("names") else None
    node.creation = Done(kept["container"])
    if state["Running"]:
        node.ports = published(known)
        node.started(state)
        node.status = NodeStatus.PAUSED if state.get("Paused") else NodeStatus.RUNNING
    else:
        node.status = NodeStatus(kept["status"])
        node.reason = kept["reason"] or (
            how_it_ended(state) if node.status is NodeStatus.DEAD else None
        )
    return node
