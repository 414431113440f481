"""Which network device of a machine has which address."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_interface

from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command, Launcher

__all__ = ["devices", "interfaces"]

# An ordinary user's PATH may be without the directories of the administrator's tools.
_LIST = Command(("/bin/sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; exec ip -o address show"))
_NOTHING = ("",) * 4
_SECONDS = 60.0


def interfaces(
    addresses: Mapping[str, IpAddress], known: Mapping[IpAddress, str]
) -> Mapping[str, str]:
    """Return the device on each network, as far as that of the address there is known."""
    return {name: known[address] for name, address in addresses.items() if address in known}


async def devices(launcher: Launcher) -> Mapping[IpAddress, str]:
    """Return the device of each address; nothing on a machine without iproute2."""
    outcome = await execution.run(launcher, _LIST, timeout=_SECONDS)
    if outcome.returncode != 0:
        return {}
    found: dict[IpAddress, str] = {}
    for line in outcome.stdout.decode(errors="replace").splitlines():
        # 2: eth0    inet 10.0.0.1/24 brd 10.0.0.255 scope global eth0
        _, device, family, address, *_ = [*line.split(), *_NOTHING]
        if family in {"inet", "inet6"}:
            found.setdefault(ip_interface(address).ip, device)
    return found
