"""What a test says that needs a daemon: skipped, visibly, without one; failed in CI."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NoReturn

import pytest

from tests.daemons import virtual
from tests.daemons.endpoints import DAEMONS, Unreachable, connection, find
from tests.daemons.guests import cached_guest
from tests.daemons.images import IMAGES
from tests.daemons.loading import missing

__all__ = [
    "ALL_IS_ASKED_FOR",
    "BOOTS_ARE_CHEAP",
    "LIBVIRT",
    "WHEN_ASKED_FOR",
    "boots_more",
    "docker_usable",
    "needs_daemon",
    "podman_usable",
    "skip_or_fail",
    "why_no_libvirt",
    "why_not",
]


LIBVIRT = "libvirt"

ALL_IS_ASKED_FOR = os.environ.get("BENCHSCALE_TEST_ALL") == "yes"
BOOTS_ARE_CHEAP = os.environ.get("BENCHSCALE_TEST_VMS") == "all"
WHEN_ASKED_FOR = "boots machines of its own, which takes long: BENCHSCALE_TEST_VMS=all"
boots_more = pytest.mark.skipif(not BOOTS_ARE_CHEAP, reason=WHEN_ASKED_FOR)
"""The test boots machines that no other test has: not for every run, where they are emulated."""


def docker_usable() -> bool:
    """Return whether docker answers and has the test images."""
    return not why_not("docker", tuple(IMAGES))


def podman_usable() -> bool:
    """Return whether podman answers and has the test images."""
    return not why_not("podman", tuple(IMAGES))


def needs_daemon(daemon: str, images: Sequence[str] = ("debian",)) -> None:
    """Skip the test when a daemon or a test image is missing; in CI, fail it."""
    assert daemon in (*DAEMONS, LIBVIRT)
    assert set(images) <= set(IMAGES)
    reason = why_no_libvirt() if daemon == LIBVIRT else why_not(daemon, tuple(images))
    if reason:
        skip_or_fail(f"{reason}; scripts/with-daemons starts what is missing")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; in CI everything is there, so that what is missing is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@functools.cache
def why_not(daemon: str, images: tuple[str, ...]) -> str:
    """Return why a daemon is of no use to a test, or nothing."""
    try:
        with connection(find(daemon)) as client:
            absent = sorted(set(images) & set(missing(client)))
    except Unreachable as error:
        return f"no {daemon}: {error}"
    return f"{daemon} has no test image {', '.join(absent)}" if absent else ""


@functools.cache
def why_no_libvirt() -> str:
    """Return why no virtual machine can be had for a test, or nothing."""
    try:
        virtual.find()
    except Unreachable as error:
        return f"no libvirt: {error}"
    return "" if cached_guest() else "no guest was made for virtual machines"
