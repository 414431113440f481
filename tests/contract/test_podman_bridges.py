"""Bridges that Podman forgets: they go with their network, when nobody uses them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import Lab
from tests.contract.docker_labs import topology
from tests.daemons.endpoints import connection, find

pytestmark = [
    pytest.mark.daemon("podman"),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes bridges"),
]

PAIR = "{network: {name: lan}, nodes: [{name: alpha}, {name: beta}]}"
PORT = "benchport"


@pytest.fixture
def api() -> Iterator[Any]:
    """The service, by other means than ours."""
    with connection(find("podman")) as client:
        yield client.api


def forget(api: Any, lab: Lab) -> str:
    """Remove a lab's containers, and leave the bridge of its network as Podman may do; return its name."""
    label = {"label": f"benchscale.lab={lab.lab_id}"}
    [network] = api.networks(filters=label)
    url = f"{api.base_url}/v4.0.0/libpod/networks/{network['Name']}/json"
    bridge = str(api.get(url).json()["network_interface"])
    for container in api.containers(all=True, filters=label):
        api.remove_container(container["Id"], force=True)
    ip("link", "add", bridge, "type", "bridge")
    return bridge


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def is_there(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


async def test_an_idle_bridge_goes_with_its_network(api):
    async with Lab.open(topology(PAIR), backend="podman") as lab:
        bridge = forget(api, lab)
    assert not is_there(bridge)


async def test_a_bridge_that_somebody_uses_stays(api):
    async with Lab.open(topology(PAIR), backend="podman") as lab:
        bridge = forget(api, lab)
        ip("link", "add", PORT, "master", bridge, "type", "veth", "peer", "name", f"{PORT}-peer")
    assert is_there(bridge)
    ip("link", "delete", PORT)
    ip("link", "delete", bridge)
