"""The routes of a container made what the plan says, where Docker gives it others.

Docker decides on a container's routes by itself, and most versions give even a network without a way
out a default route, at which every connection to the outside has to time out. Where the daemon is on this
machine and we are root, the kernel is told directly, in a millisecond and without a tool in the image;
else the image's `ip` is asked.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pytest_benchscale.backends.base import Route
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.errors import LabError
from pytest_benchscale.network import kernel_routes
from pytest_benchscale.network.netlink import Netlink, attribute

__all__ = ["can_be_set", "change_by_exec", "script", "settle"]

_RTM_DELROUTE = 25
_REQUEST_WITH_ACK = 0x1 | 0x4
_RTA_DST, _RTA_GATEWAY = 1, 5
_MAIN_TABLE, _ANY_SCOPE = 254, 255
_NO_TOOL = 42  # what `script` ends with when the image has no `ip`


def can_be_set(engine: Engine) -> bool:
    """Return whether the routes of containers can be changed whatever is in their image."""
    return engine.address.is_local and os.geteuid() == 0


def settle(pid: int, wanted: Sequence[Route], *, may_change: bool) -> bool:
    """Give the network namespace of a process the routes through gateways that it is to have.

    Blocks. Returns whether it has them now; not when others would be needed and none may be changed.

    Raises:
        OSError: the kernel refuses, or the process is gone.
    """
    found = {
        Route(route.destination, route.via)
        for route in kernel_routes.read(Path(f"/proc/{pid}/net"))
        if route.via is not None
    }
    superfluous = found.difference(wanted)
    missing = [route for route in wanted if route not in found]
    if not superfluous and not missing:
        return True
    if may_change:
        inside(pid, functools.partial(_change, superfluous, missing))
    return may_change


def _change(superfluous: Iterable[Route], missing: Iterable[Route]) -> None:
    netlink = _Netlink()
    try:
        for route in superfluous:
            netlink.delete_route(route)
        for route in missing:
            netlink.add_route(str(route.destination), str(route.via))
        netlink.flush()
    finally:
        netlink.close()


class _Netlink(Netlink):
    def delete_route(self, route: Route) -> None:
        """Delete a route through a gateway."""
        family = socket.AF_INET if route.via.version == 4 else socket.AF_INET6
        prefix = route.destination.prefixlen
        body = struct.pack("=BBBBBBBBI", family, prefix, 0, 0, _MAIN_TABLE, 0, _ANY_SCOPE, 0, 0)
        if prefix:
            body += attribute(_RTA_DST, route.destination.network_address.packed)
        body += attribute(_RTA_GATEWAY, route.via.packed)
        self.queue(_RTM_DELROUTE, _REQUEST_WITH_ACK, body, f"deletion of route {route}")


async def change_by_exec(
    engine: Engine, container: str, wanted: Collection[Route], node: str
) -> None:
    """Have the image's own `ip` set the routes of a container.

    A default route that cannot be removed stays: it leads nowhere.

    Raises:
        LabError: a route that the node needs could not be set.
    """
    try:
        command = ["/bin/sh", "-c", script(wanted)]
        session = await engine.call(
            engine.client.exec_create, container, command, privileged=True, user="0"
        )
        output = await engine.call(engine.client.exec_start, session["Id"])
        code = (await engine.call(engine.client.exec_inspect, session["Id"]))["ExitCode"]
    except ApiError as error:
        code, output = -1, str(error).encode()
    if code == 0 or not wanted:
        return
    reason = "its image has no `ip`" if code == _NO_TOOL else output.decode(errors="replace")
    raise LabError(
        f"node {node!r}: its routes could not be set: {reason.strip()}",
        node=node,
        step="routes",
        details="\n".join(f"{route.destination} via {route.via}" for route in wanted),
        resolution="use an image with iproute2 in it, or run pytest as root on the daemon's machine",
    )


def script(wanted: Iterable[Route]) -> str:
    """Return a shell script that replaces the default routes of where it runs, and adds the rest."""
    lines = [
        f"command -v ip >/dev/null 2>&1 || exit {_NO_TOOL}",
        "while ip -4 route del default 2>/dev/null; do :; done",
        "while ip -6 route del default 2>/dev/null; do :; done",
    ]
    lines += [
        f"ip -{route.via.version} route add {route.destination} via {route.via} || exit 1"
        for route in wanted
    ]
    return "\n".join(lines)
