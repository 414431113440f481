"""Where conditions and cuts of a machine that is there already are applied: at its own devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address

from pytest_benchscale.backends.ssh.conduit import MachineConduit
from pytest_benchscale.backends.ssh.devices import interfaces
from pytest_benchscale.errors import LabError
from pytest_benchscale.network.link import Link, Side
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.ssh.client import SshTransport

__all__ = ["MachineLinks"]

_LOOPBACK = "lo"
_SECONDS = 60.0
# Who commands the machine, and by which device its answers go there.
_WHO = Command(
    (
        "/bin/sh",
        "-c",
        "PATH=$PATH:/usr/sbin:/sbin; set -- $SSH_CONNECTION; echo ${1%%%*}; ip -o route get ${1%%%*}",
    )
)
_DEVICE = re.compile(r"\bdev (\S+)")


class MachineLinks:
    """The links of one machine, from its first to `aclose`."""

    def __init__(self, transport: SshTransport, timeout_scale: float = 1.0) -> None:
        self._transport = transport
        self._conduit = MachineConduit(
            f"node {transport.node!r}",
            transport.open_stream,
            node=transport.node,
            timeout_scale=timeout_scale,
        )

    async def on(
        self, addresses: Mapping[str, IpAddress], devices: Mapping[IpAddress, str]
    ) -> Mapping[str, Link]:
        """Return the links, by network: where the machine has its address of the network.

        Raises:
            LabError: the machine does not tell its devices, or two networks are on one.
        """
        if not devices:
            raise self._error(
                "it does not tell which of its devices has which address: it has no `ip`",
                "install the package iproute2 there: `apt-get install iproute2`",
            )
        found = {
            network: device
            for network, device in interfaces(addresses, devices).items()
            if device != _LOOPBACK
        }
        for network, device in found.items():
            others = [one for one, its in found.items() if its == device and one != network]
            if others:
                raise self._error(
                    f"networks {network!r} and {others[0]!r} are both on its device {device}, "
                    "and conditions act on a device",
                    "declare one network for it, or give the machine a device for each",
                )
        client, way = await self._who() if found else (None, None)
        return {
            network: Link(
                device,
                Side.INSIDE,
                self._conduit,
                frozenset({client} if client is not None and way in (device, None) else ()),
            )
            for network, device in found.items()
        }

    async def has_netem(self) -> bool:
        """Return whether the machine's kernel can delay and lose packets; see `MachineConduit`."""
        return await self._conduit.has_netem()

    async def aclose(self) -> None:
        """Have the machine take back what was set, before the way there is closed."""
        await self._conduit.aclose()

    async def _who(self) -> tuple[IpAddress | None, str | None]:
        """Return our address as the machine sees it, and the device that leads to us, where known."""
        outcome = await execution.run(self._transport, _WHO, timeout=_SECONDS)
        client, _, route = outcome.stdout.decode(errors="replace").partition("\n")
        device = _DEVICE.search(route)
        try:
            return ip_address(client.strip()), device and device[1]
        except ValueError:
            return None, None

    def _error(self, brief: str, resolution: str) -> LabError:
        node = self._transport.node
        return LabError(
            f"node {node!r}: {brief}", node=node, step="conditions", resolution=resolution
        )
