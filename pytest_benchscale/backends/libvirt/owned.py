"""What a run has at a libvirt daemon, found by labels and names."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import fromstring

import libvirt

from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import GONE
from pytest_benchscale.backends.libvirt.naming import RUN, lab_of_volume
from pytest_benchscale.backends.libvirt.network_xml import labels_of

__all__ = ["of_run"]


async def of_run(connection: Connection, run: str | None) -> list[OwnedThing]:
    """Return the domains, networks and volumes of a run; None: of all of them.

    Raises:
        libvirt.libvirtError: the daemon does not say.
    """
    return await connection.call(_of_run, connection.raw, run)


def _of_run(raw: Any, run: str | None) -> list[OwnedThing]:
    found = []
    for kind, things in (("domain", raw.listAllDomains()), ("network", raw.listAllNetworks())):
        for thing in things:
            labels = _labels(thing)
            if RUN in labels and run in (None, labels[RUN]):
                found.append(OwnedThing(kind, thing.name(), labels.get("benchscale.lab", "")))
    for pool in raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        found += [
            OwnedThing("volume", volume.name(), lab)
            for volume in pool.listAllVolumes()
            if (lab := lab_of_volume(volume.name(), run)) is not None
        ]
    return found


def _labels(thing: Any) -> dict[str, str]:
    try:
        return labels_of(fromstring(thing.XMLDesc(0)))  # noqa: S314  the daemon's own words
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:  # it was removed at this moment
            raise
        return {}
