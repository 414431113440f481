"""What a daemon's machine is, and what we keep there from lab to lab."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pytest_benchscale.backends.libvirt import images
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import told
from pytest_benchscale.backends.libvirt.prepared import Shelf
from pytest_benchscale.backends.libvirt.storage import Storage

__all__ = ["Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon's machine. `machine` names it with its pool; `made_by` decides how guests are made there."""

    connection: Connection
    storage: Storage
    shelf: Shelf
    machine: str
    made_by: str
    memory_mb: int
    cpus: int

    @classmethod
    async def find(cls, connection: Connection) -> Site:
        """Ask the daemon.

        Raises:
            LabError: it does not tell, or has no storage.
        """
        storage = await Storage.open(connection)
        with told("the daemon tells nothing of its machine", "open"):
            _, memory_mb, cpus, *_ = await connection.call(connection.raw.getInfo)
            host, made_by = await connection.call(_describe, connection.raw)
        machine = f"{host}:{storage.directory}"
        shelf = Shelf(connection, storage, images.cache_directory(), machine)
        return cls(connection, storage, shelf, machine, made_by, memory_mb, cpus)


def _describe(raw: Any) -> tuple[str, str]:
    """Return the name of the daemon's machine, and what decides how guests are made there."""
    return (
        raw.getHostname(),
        f"{version('pytest-benchscale')} {raw.getLibVersion()} {raw.getVersion()}",
    )
