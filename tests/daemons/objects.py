"""Everything that a daemon has, counted, so that a run can prove that it left nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemons.endpoints import DAEMONS, Unreachable, connection, find
from tests.daemons.images import REPOSITORY

__all__ = ["OWN", "Thing", "everything", "reachable", "wait_until_as_before"]

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
        with connection(url) as client:
            for kind, name, identity, labels in _listing(client):
                if alone or _may_be_ours(labels):
                    found.add(Thing(daemon, kind, name, identity))
    return frozenset(found)


def _listing(client: Any) -> Iterator[tuple[str, str, str, Mapping[str, str]]]:
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
