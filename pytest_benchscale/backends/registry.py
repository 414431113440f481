"""Which backends there are. Ours are entry points like anyone else's.

A backend is imported when it is first asked for by name, never before.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import anyio

from pytest_benchscale.backends.base import Backend
from pytest_benchscale.backends.requirements import unmet
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.topology.model import Topology

__all__ = [
    "AUTO",
    "GROUP",
    "Choice",
    "check_name",
    "check_own",
    "choose",
    "get",
    "names",
    "notes",
    "register",
    "resolve",
    "unregister",
]

GROUP = "pytest_benchscale.backends"
"""The group of entry points: the name of a backend, and its class."""

AUTO = "auto"
"""Stands for the cheapest usable backend that can run a topology."""

_CHEAPEST_FIRST = ("local", "docker", "podman", "ssh", "libvirt")
_EXTRAS = ("docker", "podman", "libvirt")
"""Backends that need an extra of ours to be installed."""

_registered: dict[str, type[Backend]] = {}


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that `auto` stands for, and why it is that one."""

    name: str
    why: str


def register(name: str, backend: type[Backend]) -> None:
    """Add a backend to this process; it wins over an entry point of the same name."""
    _registered[name] = backend


def unregister(name: str) -> None:
    """Undo `register`."""
    _registered.pop(name, None)


def names() -> tuple[str, ...]:
    """Return the names of all backends, the cheapest first; imports none of them."""
    found = {*_registered, *_entry_points()}
    ours = [name for name in _CHEAPEST_FIRST if name in found]
    return (*ours, *sorted(found.difference(ours)))


def check_name(name: str) -> None:
    """Check that there is a backend of that name; imports none.

    Raises:
        BackendUnavailable: there is none.
    """
    known = names()
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    install = f"install the package that brings {name!r}"
    advice = f"use one of {', '.join(known)}, or {install}" if known else install
    raise BackendUnavailable(name, f"there is no backend of that name{hint}", resolution=advice)


def get(name: str) -> type[Backend]:
    """Return a backend's class, importing it when need be.

    Raises:
        BackendUnavailable: there is none of that name, or it cannot be imported; says why.
    """
    if name in _registered:
        return _registered[name]
    check_name(name)
    return _load(_entry_points()[name])


def check_own(topology: Topology, backend: str) -> None:
    """Check that no node asks for another backend than the lab's.

    Raises:
        LabError: one does.
    """
    others = _own(topology) - {backend}
    if others:
        listed = ", ".join(
            f"node {node.name!r}: {node.backend}"
            for node in topology.nodes
            if node.backend in others
        )
        raise LabError(
            f"topology {topology.name!r} asks for several backends, which cannot be mixed yet: "
            f"{backend} and {', '.join(sorted(others))}",
            step="check",
            details=listed,
            resolution="give all nodes the same `backend:`, or none",
        )


async def resolve(topology: Topology, wanted: str, images: Mapping[str, str]) -> Choice:
    """Return the backend of a lab for which `wanted`, a name or `auto`, was asked.

    What the nodes themselves ask for comes first.

    Raises:
        BackendUnavailable: there is no such backend; for `auto`, none that can run the topology.
        LabError: the topology asks for several.
    """
    own = _own(topology)
    if own and (wanted == AUTO or all(node.backend in own for node in topology.nodes)):
        name = min(own)
        check_own(topology, name)
        check_name(name)
        return Choice(name, f"{name}: its nodes ask for it")
    if wanted == AUTO:
        return await choose(topology, images)
    check_name(wanted)
    check_own(topology, wanted)
    return Choice(wanted, f"{wanted}: asked for")


async def choose(topology: Topology, images: Mapping[str, str]) -> Choice:
    """Return what `auto` stands for: the cheapest usable backend that can run the whole topology.

    Raises:
        BackendUnavailable: no backend can; says of each why not.
    """
    if _own(topology):
        return await resolve(topology, AUTO, images)
    passed_over: list[str] = []
    for name in names():
        try:
            return Choice(name, _why(name, await _usable(name, topology, images), passed_over))
        except BackendUnavailable as exc:
            cure = f" ({exc.resolution})" if exc.resolution else ""
            passed_over.append(f"{name}: {exc.reason}{cure}")
    raise BackendUnavailable(
        AUTO,
        f"no backend can run topology {topology.name!r} here\n" + "\n".join(passed_over),
        resolution="make one of them usable, or leave out of the topology what they lack; "
        "`benchscale backends` shows what is there",
    )


async def notes(name: str, topology: Topology) -> Sequence[str]:
    """Return what a backend has to say of how it would run a topology.

    Raises:
        BackendUnavailable: there is none of that name, or it cannot be imported.
    """
    async with _instance(name) as backend:
        return await backend.notes(topology)


async def _usable(name: str, topology: Topology, images: Mapping[str, str]) -> str:
    """Return the version of what a backend runs on, if it can run the topology.

    Raises:
        BackendUnavailable: it cannot.
    """
    async with _instance(name) as backend:
        lacking = [f"{need.where}" for need in unmet(topology, backend.capabilities)]
        if reasons := backend.can_run(topology, images) or lacking:
            raise BackendUnavailable(name, f"it cannot run this topology: {'; '.join(reasons)}")
        return await backend.probe()


@asynccontextmanager
async def _instance(name: str) -> AsyncIterator[Backend]:
    """Have a backend that serves no lab, for a block."""
    backend = get(name)()
    try:
        yield backend
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


def _own(topology: Topology) -> set[str]:
    """Return the backends that nodes ask for themselves."""
    return {node.backend for node in topology.nodes if node.backend} - {AUTO}


def _why(name: str, version: str, passed_over: Sequence[str]) -> str:
    known = f"{name} {version}".strip()
    if not passed_over:
        return f"{known}: the cheapest that can run this topology"
    return f"{known}: the cheapest that can run this topology; not {'; not '.join(passed_over)}"


@functools.cache
def _entry_points() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@functools.cache
def _load(point: EntryPoint) -> type[Backend]:
    try:
        loaded: type[Backend] = point.load()
    except (ImportError, AttributeError) as exc:
        raise BackendUnavailable(
            point.name,
            f"it cannot be imported: {type(exc).__name__}: {exc}",
            resolution=_install_advice(point.name),
        ) from exc
    return loaded


def _install_advice(name: str) -> str:
    if name in _EXTRAS:
        return f"pip install 'pytest-benchscale[{name}]'"
    return f"install or repair the package that brings {name!r}"
