"""Providing daemons of containers and virtual machines to a command: found or started, and ended after it."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from docker.errors import APIError

from tests.daemons import own, virtual
from tests.daemons.commands import leave_on_signals, run_command
from tests.daemons.endpoints import DAEMONS, VARIABLES, Unreachable, connection, find
from tests.daemons.guests import guest
from tests.daemons.images import IMAGES
from tests.daemons.loading import load, missing
from tests.daemons.objects import OWN
from tests.daemons.packages import NotInstalled, install
from tests.daemons.roots import BuildError, cache_directory, tarball
from tests.daemons.service import Holder, NotStarted

__all__ = ["run"]


_SECONDS_TO_END = 30.0
_SECONDS_FOR_ANOTHER_RUN = 3600.0


class Busy(Exception):
    """Another run on this machine does not end."""


def run(command: Sequence[str]) -> int:
    """Run a command with the daemons that can be had; return its exit code."""
    leave_on_signals()
    with ExitStack() as ends:
        try:
            environment = _provide(ends)
        except Busy as error:
            _say(str(error))
            return 1
        try:
            return run_command(command, {**os.environ, **environment})
        except OSError as error:
            _say(f"{command[0]}: {error.strerror}")
            return 127


def _say(text: str) -> None:
    print(f"with-daemons: {text}", file=sys.stderr, flush=True)


def _provide(ends: ExitStack) -> dict[str, str]:
    """Find or start the daemons and give them the test images; return variables for the command."""
    addresses: dict[str, str] = {}
    for daemon in DAEMONS:
        try:
            addresses[daemon] = find(daemon)
        except Unreachable:
            continue
        _say(f"{daemon} answers at {addresses[daemon]}")
    environment: dict[str, str] = {OWN: ""}
    _install_servers()
    absent = [daemon for daemon in DAEMONS if daemon not in addresses]
    libvirtd = _find_libvirt()
    if absent or libvirtd is None:
        lock = ends.enter_context(_locked(own.run_directory() / "lock"))
        own.unmount_left()  # of a run that was killed
        ends.callback(own.unmount_left)
        holder = ends.enter_context(Holder(grace=_SECONDS_TO_END, inherited=[lock]))
        for daemon in absent:
            try:
                addresses[daemon] = _start(daemon, holder, environment)
            except (NotInstalled, NotStarted, Unreachable, BuildError, APIError) as error:
                _say(f"no {daemon}: {error}")
        if libvirtd is None:
            libvirtd = _start_libvirt(holder, ends, environment)
    for daemon, url in addresses.items():
        environment[VARIABLES[daemon]] = url
    with _locked(cache_directory() / "lock"):
        for daemon, url in addresses.items():
            _load_images(daemon, url)
        if libvirtd is not None:
            environment[virtual.VARIABLE] = libvirtd
            _make_guest()
    return environment


def _install_servers() -> None:
    """Install what tests run themselves; not on a user's machine, where it might start to serve."""
    if os.environ.get("CI"):
        for purpose in ("ssh", "etcd"):
            with suppress(NotInstalled):  # the tests will tell
                _install(purpose)


def _find_libvirt() -> str | None:
    try:
        uri = virtual.find()
    except Unreachable:
        return None
    _say(f"libvirt answers at {uri}")
    return uri


def _start_libvirt(holder: Holder, ends: ExitStack, environment: dict[str, str]) -> str | None:
    """Start a libvirt daemon of our own and return its URI; None where that cannot be."""
    try:
        _install("libvirt")
        _say("starting libvirt")
        uri = virtual.start(holder)
    except (NotInstalled, NotStarted) as error:
        _say(f"no libvirt: {error}")
        return None
    # Its bridges would outlast it.
    ends.callback(_clear_libvirt, uri)
    environment[OWN] = f"{environment.get(OWN, '')} libvirt".strip()
    return uri


def _clear_libvirt(uri: str) -> None:
    try:
        virtual.clear(uri)
    except Unreachable as error:
        _say(f"what is left in libvirt was not removed: {error}")


def _make_guest() -> None:
    try:
        _install("images")
        _install("guests")
        guest()
    except (NotInstalled, BuildError) as error:
        _say(f"no guest for virtual machines: {error}")


def _start(daemon: str, holder: Holder, environment: dict[str, str]) -> str:
    """Start a daemon of our own and return its address; adds variables for the command."""
    if daemon == "docker" and os.geteuid() != 0:
        raise NotStarted("none answers, and only root can start one")
    if _install(daemon):
        with suppress(Unreachable):  # where systemd runs, the package has started it
            return find(daemon)
    _say(f"starting {daemon}")
    if daemon == "docker":
        url = own.start_docker(holder)
    else:
        with suppress(NotInstalled):  # that is told when it turns out that it is needed
            _install("images")
        with _locked(cache_directory() / "lock"):
            url, settings = own.start_podman(holder)
        environment.update(settings)
    environment[OWN] = f"{environment.get(OWN, '')} {daemon}".strip()
    with connection(url) as client:
        left = own.clear(client)
    if left:
        _say(f"removed {left} objects from {daemon} that an earlier run left")
    return url


def _install(purpose: str) -> bool:
    """Install what is missing for a purpose; return whether anything was."""
    packages = install(purpose)
    if packages:
        _say(f"installed {' '.join(packages)}")
    return bool(packages)


def _load_images(daemon: str, url: str) -> None:
    """Bring the test images into a daemon; one that cannot be made is said to be missing."""
    with connection(url, timeout=300) as client:
        for name in missing(client):
            _say(f"bringing the test image {name} into {daemon}")
            try:
                _install("images")
                load(client, name, tarball(IMAGES[name].root))
            except (NotInstalled, BuildError, APIError) as error:
                _say(f"no test image {name}: {error}")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a lock against other runs on this machine; the file descriptor is what holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        deadline = time.monotonic() + _SECONDS_FOR_ANOTHER_RUN
        waiting = False
        while not _lock(file):
            if not waiting:
                _say("waiting for another run on this machine to end")
            waiting = True
            if time.monotonic() > deadline:
                raise Busy(f"another run has held {path} for too long")
            time.sleep(0.2)
        yield file.fileno()


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
