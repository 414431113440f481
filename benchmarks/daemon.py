"""A container daemon as a field of contestants: who can take part, and what they leave behind."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from docker.errors import APIError

from benchmarks import compose_v2
from benchmarks.contestants import ContestantError, Field
from benchmarks.workers.peer import AT_ONCE, INTERNAL, LABEL, OPEN
from pytest_benchscale.backends.podman import filters_bridges
from tests.daemons.endpoints import VARIABLES, Unreachable, connection
from tests.daemons.endpoints import find as find_address
from tests.daemons.images import reference
from tests.daemons.loading import missing

BACKENDS = ("docker", "podman")
IMAGE = "debian"  # one of the tests' images; all contestants run the same


@dataclass
class Daemon:
    """A daemon that answers. `run` marks what the peers create there, to be found afterwards."""

    backend: str
    url: str
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Connect to it by the docker SDK."""
        with connection(self.url, timeout=300) as client:
            yield client

    @property
    def carries_internally(self) -> bool:
        """Whether packets pass on its internal networks: only then are nodes there what ours are."""
        return self.backend != "podman" or not filters_bridges()

    def describe(self) -> str:
        """Return what the figures were measured with."""
        with self.client() as client:
            answer = client.version()
        return f"{self.backend} {answer['Version']}, API {answer['ApiVersion']}"

    def sweep(self) -> list[str]:
        """Remove what peers of this run have left, and return its names.

        Docker sometimes counts endpoints of a network that are gone, and then keeps it until it is restarted.
        """
        with self.client() as client:
            ours = {"label": f"{LABEL}={self.run}"}
            containers = client.containers.list(all=True, filters=ours)
            networks = client.networks.list(filters=ours)
            for each in containers:
                each.remove(force=True, v=True)
            for each in networks:
                with suppress(APIError):  # the count at the end shows it
                    each.remove()
        return [each.name for each in (*containers, *networks)]

    def objects(self) -> frozenset[str]:
        """Return all containers, networks and volumes of the daemon, whoever made them."""
        with self.client() as client:
            containers = {it["Id"]: it["Names"] for it in client.api.containers(all=True)}
            networks = {it["Id"]: [it["Name"]] for it in client.api.networks()}
            volumes = {it["Name"]: [it["Name"]] for it in client.api.volumes()["Volumes"] or ()}
        return frozenset(
            f"{kind} {' '.join(names or ())} ({identity[:12]})"
            for kind, things in (
                ("container", containers),
                ("network", networks),
                ("volume", volumes),
            )
            for identity, names in things.items()
        )


def connect(backend: str) -> Daemon:
    """Return the daemon of a backend.

    Raises:
        ContestantError: none answers, or it has no image to run.
    """
    try:
        daemon = Daemon(backend, find_address(backend))
        with daemon.client() as client:
            absent = missing(client)
    except Unreachable as error:
        raise ContestantError(f"no {backend}: {error}") from error
    if IMAGE in absent:
        raise ContestantError(f"{backend} has no image {reference(IMAGE)}")
    return daemon


def _compose() -> tuple[str, ...]:
    return (str(compose_v2.find_compose()),)


def _docker_command() -> tuple[str, ...]:
    if not shutil.which("docker"):
        raise ContestantError("not installed: the docker command")
    return ()


def _package(name: str) -> Callable[[], tuple[str, ...]]:
    def needs() -> tuple[str, ...]:
        try:
            version(name)
        except PackageNotFoundError:
            raise ContestantError(f"not installed: {name}, for {sys.executable}") from None
        return ()

    return needs


FLOOR = "floor"
"""Containers without a network, through the SDK: what a daemon needs for processes and files alone."""

PEERS: Mapping[str, tuple[str, Callable[[], tuple[str, ...]]]] = {
    "compose": ("compose", _compose),
    "sdk": ("sdk", tuple),
    f"sdk-{AT_ONCE}": ("sdk", lambda: (str(AT_ONCE),)),
    FLOOR: ("sdk", lambda: (str(AT_ONCE), "none")),
    "cli": ("cli", _docker_command),
    "aiodocker": ("aiodocker", _package("aiodocker")),
    "testcontainers": ("testcontainers", _package("testcontainers")),
}
"""Name -> the module of its worker, and what finds the worker's further arguments, or why it cannot run."""

CONTESTANTS = ("ours", *PEERS)

UPKEEP = "upkeep"
"""Ours beside itself: labs led back and taken over, and built anew."""


def _argv(name: str, daemon: Daemon) -> tuple[str, ...]:
    """Return the command line of a contestant's worker; raises ContestantError."""
    if name in ("ours", UPKEEP):
        _package("pytest-benchscale")()
        module, arguments = name, [daemon.backend, reference(IMAGE)]
    else:
        module, more = PEERS[name]
        kind = INTERNAL if daemon.carries_internally else OPEN
        arguments = [name, daemon.run, reference(IMAGE), kind, *more()]
    variables = {"DOCKER_HOST", VARIABLES[daemon.backend]}
    settings = [f"{variable}={daemon.url}" for variable in sorted(variables)]
    return ("env", *settings, sys.executable, "-m", f"benchmarks.workers.{module}", *arguments)


def find(daemon: Daemon, without: Container[str]) -> Field:
    """Find out who can take part on a daemon."""
    found = Field()
    for name in (*CONTESTANTS, UPKEEP):
        if name in without:
            found.absent[name] = "left out: --without"
            continue
        try:
            found.argv[name] = _argv(name, daemon)
        except ContestantError as error:
            found.absent[name] = str(error)
    return found


def versions() -> str:
    """Return what the peers are, as far as they are there."""
    known = {}
    for name in ("docker", "aiodocker", "testcontainers"):
        try:
            known[f"{name} (PyPI)"] = version(name)
        except PackageNotFoundError:
            continue
    with suppress(ContestantError):
        known["compose"] = compose_v2.version(compose_v2.find_compose())
    return ", ".join(f"{name} {number}" for name, number in known.items())
