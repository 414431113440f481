"""The host's ends of a container's links."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan
from pytest_benchscale.transports.base import Transport

__all__ = ["host_devices"]

_DEVICES = Path("/sys/class/net")


async def host_devices(transport: Transport, interfaces: Iterable[InterfacePlan]) -> dict[str, str]:
    """Return, by network, the devices of this machine that a container's are connected with.

    Each knows the index of its peer. A device whose peer is not on this machine is left out.

    Raises:
        OSError: the container does not say.
    """
    ours = await to_thread.run_sync(_by_index)
    devices = {}
    for interface in interfaces:
        peer = await transport.read_bytes(f"/sys/class/net/{interface.device}/iflink")
        if (device := ours.get(int(peer))) is not None:
            devices[interface.network] = device
    return devices


def _by_index() -> dict[int, str]:
    return {int((path / "ifindex").read_text()): path.name for path in _DEVICES.iterdir()}
