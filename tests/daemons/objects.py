"""Everything that a daemon has, counted, so that a run can prove that it left nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.daemons import virtual
from tests.daemons.endpoints import DAEMONS, Unreachable, connection, find
from tests.daemons.images import REPOSITORY
from tests.daemons.needs import LIBVIRT

__all__ = ["OWN", "Thing", "everything", "reachable", "wait_until_as_before"]

Listed = tuple[str, str, str, Mapping[str, str]]  # kind, name, id and labels

# Set by scripts/with-daemons: the daemons that this run shares with nobody.
OWN = "BENCHSCALE_TEST_OWN_DAEMONS"
_OWNER = "benchscale.pid"  # the label that says whose a thing is


@dataclass(frozen=True, order=True)
class Thing:
    """A container, network, volume or image, whether or not it carries a label of ours."""

    daemon: str
    kind: str
    name: str
    id: str

    def __str__(self) -> str:
        return f"{self.daemon}: {self.kind} {self.name} ({self.id[:19]})"


def reachable() -> dict[str, str]:
    """Return the addresses of the daemons that answer; cheap where there are none."""
    addresses = {}
    for daemon in DAEMONS:
        try:
            addresses[daemon] = find(daemon)
        except Unreachable:
            continue
    with suppress(Unreachable):
        addresses[LIBVIRT] = virtual.find()
    return addresses


def everything(addresses: Mapping[str, str]) -> frozenset[Thing]:
    """Return all that these daemons have, whoever made it.

    Where others may be using a daemon at the same moment, only what carries an owner's label is
    counted, and of that not what a live process other than this one owns.

    Raises:
        Unreachable: one of them does not answer.
    """
    found: set[Thing] = set()
    for daemon, url in addresses.items():
        alone = bool(os.environ.get("CI")) or daemon in os.environ.get(OWN, "").split()
        listing = _listing_of_libvirt(url) if daemon == LIBVIRT else _listing_of_containers(url)
        for kind, name, identity, labels in listing:
            if alone or _may_be_ours(labels):
                found.add(Thing(daemon, kind, name, identity))
    return frozenset(found)


def _listing_of_containers(url: str) -> Iterator[Listed]:
    with connection(url) as client:
        yield from _listing(client)


def _listing_of_libvirt(uri: str) -> Iterator[Listed]:
    """Go through what a libvirt daemon has. Volumes have no labels; the names of ours say that they are."""
    with virtual.connection(uri) as libvirtd:
        for kind, things in (
            ("domain", libvirtd.listAllDomains()),
            ("network", libvirtd.listAllNetworks()),
        ):
            for thing in things:
                if (description := virtual.description(thing)) is not None:
                    yield kind, thing.name(), thing.UUIDString(), _labels_in(description)
        for pool in libvirtd.listAllStoragePools():
            for volume in pool.listAllVolumes():
                if not volume.name().startswith(virtual.STAYING):
                    yield "volume", volume.name(), volume.key(), {}


def _labels_in(description: str) -> Mapping[str, str]:
    elements = ElementTree.fromstring(description).iter()
    return {
        element.get("name", ""): element.get("value", "")
        for element in elements
        if element.tag.endswith("}label")
    }


def _listing(client: Any) -> Iterator[Listed]:
    """Go through what a daemon has: kind, name, id and labels of each."""
    for it in client.api.containers(all=True):
        yield "container", " ".join(it["Names"] or ()), it["Id"], it["Labels"] or {}
    for it in client.api.networks():
        yield "network", it["Name"], it["Id"], it["Labels"] or {}
    for it in client.api.volumes()["Volumes"] or ():
        yield "volume", it["Name"], it["Name"], it["Labels"] or {}
    for it in client.api.images(all=True):  # with those that a build made on its way
        for tag in it["RepoTags"] or ["<none>"]:
            if not _is_a_test_image(tag):
                yield "image", tag, it["Id"], it["Labels"] or {}


def _is_a_test_image(tag: str) -> bool:
    """Return whether it is one of those that stay from run to run, whatever its recipe."""
    return tag.startswith(
        (f"{REPOSITORY}/", f"docker.io/{REPOSITORY}/", f"localhost/{REPOSITORY}/")
    )


def _may_be_ours(labels: Mapping[str, str]) -> bool:
    """Return whether this run made it, or one of this project's that is no longer there."""
    owner = labels.get(_OWNER, "")
    return owner.isdigit() and (int(owner) == os.getpid() or not Path("/proc", owner).exists())


def wait_until_as_before(
    before: Iterable[Thing], addresses: Mapping[str, str], seconds: float = 10.0
) -> list[str]:
    """Return what is there now and was not before; the daemons get a moment to finish."""
    deadline = time.monotonic() + seconds
    while True:
        left = everything(addresses) - frozenset(before)
        if not left or time.monotonic() > deadline:
            return [str(thing) for thing in sorted(left)]
        time.sleep(0.1)
