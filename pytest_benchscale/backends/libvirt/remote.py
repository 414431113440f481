"""The guests of a daemon on another machine, reached by ssh as libvirt reaches the daemon itself.

What the daemon's URI says of ssh counts for us, too (libvirt.org/uri.html), as does the user's ssh_config.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncssh

from pytest_benchscale.network import kernel_routes
from pytest_benchscale.network.kernel_routes import KernelRoute
from pytest_benchscale.transports.ssh.connections import connect
from pytest_benchscale.transports.ssh.jump import Jump
from pytest_benchscale.transports.ssh.login import DEFAULT_PORT, HostKeys, Login, LoginFailed

__all__ = ["is_by_ssh", "login_at", "routes_at", "way_to"]

_ROUTES_SECONDS = 10.0

_BY_SSH = re.compile(r"qemu\+(ssh|libssh2?)://")


def is_by_ssh(uri: str) -> bool:
    """Return whether the machine of this daemon is one to log in to."""
    return _BY_SSH.match(uri) is not None


def login_at(uri: str) -> Login:
    """Return how to log in to the machine of the daemon at such a URI.

    Raises:
        ValueError: its port is none.
    """
    parts = urlsplit(uri)
    said = dict(parse_qsl(parts.query))
    unchecked = said.get("no_verify", "0") != "0" or said.get("known_hosts_verify") == "ignore"
    return Login(
        parts.hostname or "localhost",
        parts.port or DEFAULT_PORT,
        user=parts.username,
        key=Path(said["keyfile"]) if "keyfile" in said else None,
        host_keys=HostKeys(
            path=Path(said["known_hosts"]) if "known_hosts" in said else None, unchecked=unchecked
        ),
        reads_config=True,
    )


def way_to(uri: str) -> Jump | None:
    """Return what leads to the guests of the daemon at `uri`; None: they are on networks of this machine."""
    if not is_by_ssh(uri):
        return None
    login = login_at(uri)
    return Jump(login, connect, lambda failed: _advice(login, failed))


async def routes_at(way: Jump) -> list[KernelRoute]:
    """Return the routes of that machine; none where it does not tell them, which is found out otherwise."""
    tables = []
    try:
        connection = await way.connected()
        for name in ("route", "ipv6_route"):
            told = await connection.run(f"cat /proc/net/{name}", timeout=_ROUTES_SECONDS)
            tables.append(str(told.stdout))
        return [*kernel_routes.parse_ipv4(tables[0]), *kernel_routes.parse_ipv6(tables[1])]
    except (LoginFailed, OSError, asyncssh.Error, ValueError):
        # Without a way the lab ends anyway, with its reason; a machine may have no such tables; and
        # libvirt refuses a network for which there is a route.
        return []


def _advice(login: Login, failed: LoginFailed) -> str:
    user = f"{login.user}@" if login.user else ""
    command = f"`ssh -p {login.port} {user}{login.host}`"
    if isinstance(failed.__cause__, asyncssh.HostKeyNotVerifiable):
        return (
            f"log in once by {command} and accept its key, if it is the right one; or name a file that has "
            "it in the daemon's URI, `known_hosts=PATH`"
        )
    if isinstance(
        failed.__cause__, asyncssh.PermissionDenied | asyncssh.KeyImportError | FileNotFoundError
    ):
        return (
            "have the agent hold a key that it takes, or name one without a passphrase in the daemon's URI, "
            f"`keyfile=PATH`; {command} must need no password"
        )
    return f"try {command}; host, port and user are those of LIBVIRT_DEFAULT_URI"
