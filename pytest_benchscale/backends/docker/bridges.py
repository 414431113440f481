"""Bridges of this machine that a daemon forgets.

Podman removes the bridge of a network with the last container that leaves it. Of two that leave at the same
time, each may take the other one for the last, and the bridge stays, also when the network is removed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from anyio import to_thread

from pytest_benchscale.backends.docker.shared_machine import shares_this_machine
from pytest_benchscale.errors import LabError
from pytest_benchscale.network.netlink import Netlink
from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["remove_idle"]

_LIBPOD = "v4.0.0/libpod"  # Podman's own API, in which a network has a bridge


async def remove_idle(
    address: DaemonAddress, ask: Callable[..., Any], client: docker.APIClient, network: str
) -> None:
    """Remove the bridge of a network of Podman's that is still there, if nothing is connected to it.

    For a network that is to be removed: until then no other one has a bridge of this name. `ask` calls
    something that uses `client`.

    Raises:
        BackendUnavailable: the daemon does not answer.
        LabError: the kernel does not remove it.
    """
    if not await to_thread.run_sync(shares_this_machine, address):
        return
    bridge = await ask(_bridge_of, client, network)
    if not bridge:
        return
    try:
        await to_thread.run_sync(_remove, bridge)
    except OSError as error:
        raise LabError(
            f"the bridge {bridge!r}, which Podman has left, cannot be removed: {error}",
            step="network",
        ) from error


def _bridge_of(client: docker.APIClient, network: str) -> str:
    url = f"{client.base_url}/{_LIBPOD}/networks/{network}/json"
    response = client.get(url, timeout=client.timeout)
    # What goes wrong here is told by the removal of the network, if it matters. Podman 3 answers with a list.
    known = response.json() if response.ok else None
    return str(known.get("network_interface") or "") if isinstance(known, dict) else ""


def _remove(bridge: str) -> None:
    ports = Path("/sys/class/net", bridge, "brif")
    if not ports.is_dir() or any(ports.iterdir()):
        return
    netlink = Netlink()
    try:
        netlink.delete_link(bridge)
        for error in netlink.settle().values():
            if error.errno != errno.ENODEV:
                raise error
    finally:
        netlink.close()
