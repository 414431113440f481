"""Waiting until a guest is ready: it has its address, lets us in, and cloud-init has finished."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports.base import Launcher

__all__ = ["Deadlines", "Guest", "Ready", "until_ready"]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each step may take, in seconds on a fast machine."""

    address: float = 120.0
    ssh: float = 120.0
    cloud_init: float = 600.0
    refused: float = 10.0  # how long a login may be refused until that counts

    def scaled(self, scale: float) -> Deadlines:
        """Return deadlines for a machine that is slower by that factor."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that boots.

    `launcher` logs in with the host key pinned (an `SshTransport`); `host` and `port` are where its sshd will
    listen. `died` returns why once the domain has ended, and not before. `addresses` are those that the
    guest must have in the end. `is_seeded` says that it was given a seed, so its cloud-init must run.
    """

    node: str
    host: str
    port: int
    launcher: Launcher
    died: Callable[[], Awaitable[str]]
    console: Console | None = None
    addresses: tuple[IpAddress, ...] = ()
    is_seeded: bool = True


@dataclass(frozen=True, slots=True)
class Ready:
    """How a guest became ready. `warnings` is what cloud-init complained about; it works all the same."""

    boot_id: str
    cloud_init: Literal["done", "degraded", "none", "disabled"]
    warnings: tuple[str, ...] = ()
    reboots: int = 0


async def until_ready(
    guest: Guest, *, deadlines: Deadlines | None = None, progress: Progress | None = None
) -> Ready:
    """Wait until a guest is ready, and warn (`GuestWarning`) of what cloud-init complained about.

    Raises:
        NodeDied: its domain ended, or its kernel panicked; with the console's end.
        LabError: it never got an address, refused the login, cloud-init failed, or took too long.
    """
    raise NotImplementedError
