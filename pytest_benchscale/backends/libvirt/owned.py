"""What labs have at a libvirt daemon, found by labels and, volumes, by names; and its removal.

Domains and networks carry the labels of their lab in their metadata. Volumes can carry none: their names
have the run and the lab in them, each of which is unique.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import libvirt

from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import ENDED, GONE
from pytest_benchscale.backends.libvirt.naming import LAB, RUN, lab_of_volume
from pytest_benchscale.backends.libvirt.network_xml import labels_of

__all__ = ["forget_logs", "of_run", "remove"]

_SECONDS = 30.0  # for all of a lab: the daemon may still be busy with what the dead owner asked for
_PAUSE = 0.2
_LOGS = Path("/var/log/libvirt/qemu")  # of the system's daemon


async def of_run(connection: Connection, run: str | None) -> list[OwnedThing]:
    """Return the domains, networks and volumes of a run; None: of all of them.

    Raises:
        libvirt.libvirtError: the daemon does not say.
    """
    found = await connection.call(lambda: list(_of_run(connection.raw, run)))
    return [one for _, one in found]


async def remove(connection: Connection, run: str, lab_id: str) -> None:
    """Remove all domains, networks and volumes of one lab of a run, and the logs of its domains here.

    Looks again until nothing is left: a domain may end by itself meanwhile, with its owner's connection.

    Raises:
        libvirt.libvirtError: something cannot be removed; the rest was.
    """
    await connection.call(_remove, connection.raw, run, lab_id)
    if connection.is_local:
        await connection.call(forget_logs, run, lab_id)


def forget_logs(run: str, lab_id: str, directory: Path = _LOGS) -> None:
    """Remove what the daemon of this machine has written down of a lab's domains, where that is allowed.

    It has a log for each name that a domain ever had; ours come never again. What a log says is of which
    volumes its domain was made.
    """
    with suppress(OSError):
        for log in directory.glob(f"benchscale-{lab_id}-*.log"):
            if f"/benchscale-{run}-{lab_id}-".encode() in log.read_bytes():
                log.unlink()


def _remove(raw: Any, run: str, lab_id: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while there := [(thing, one) for thing, one in _of_run(raw, run) if one.lab_id == lab_id]:
        refusal: libvirt.libvirtError | None = None
        for thing, one in there:
            try:
                thing.delete(0) if one.kind == "volume" else thing.destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (GONE if one.kind == "volume" else ENDED):
                    refusal = error
        if refusal is not None:
            if time.monotonic() > deadline:
                raise refusal
            time.sleep(_PAUSE)
            _look_anew(raw)


def _of_run(raw: Any, run: str | None) -> Iterator[tuple[Any, OwnedThing]]:
    """Yield what there is, in the order in which it can be removed."""
    if run == "":
        return  # what carries no labels is nobody's
    for kind, things in (("domain", raw.listAllDomains()), ("network", raw.listAllNetworks())):
        for thing in things:
            labels = _labels(thing)
            if RUN in labels and run in (None, labels[RUN]):
                yield thing, OwnedThing(kind, thing.name(), labels.get(LAB, ""))
    for pool in raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        for volume in pool.listAllVolumes():
            if (lab := lab_of_volume(volume.name(), run)) is not None:
                yield volume, OwnedThing("volume", volume.name(), lab)


def _look_anew(raw: Any) -> None:
    """Let the daemon look at its pools: what it takes for a volume may be gone."""
    for pool in raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        with suppress(libvirt.libvirtError):  # it is busy, and knows then
            pool.refresh(0)


def _labels(thing: Any) -> dict[str, str]:
    try:
        if thing.isPersistent():  # ours are not: it is somebody's copy of one, labels and all
            return {}
        return labels_of(fromstring(thing.XMLDesc(0)))  # noqa: S314  the daemon's own words
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:  # it was removed at this moment
            raise
        return {}
