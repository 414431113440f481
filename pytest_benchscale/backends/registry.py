"""Which backends there are. Ours are entry points like anyone else's.

A backend is imported when it is first asked for by name, never before.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from pytest_benchscale.backends.base import Backend
from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.topology.model import Topology

__all__ = ["GROUP", "Choice", "check_name", "choose", "get", "names", "register", "unregister"]

GROUP = "pytest_benchscale.backends"
"""The group of entry points: the name of a backend, and its class."""

_CHEAPEST_FIRST = ("local", "docker", "podman", "libvirt", "ssh")
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
    advice = (
        _install_advice(name)
        if name in _EXTRAS
        else f"use one of {', '.join(known)}, or install the package that brings {name!r}"
    )
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


async def choose(topology: Topology, images: Mapping[str, str]) -> Choice:
    """Return what `auto` stands for: the cheapest usable backend that can run the whole topology.

    A node's own `backend:` narrows the choice to that one.

    Raises:
        BackendUnavailable: no backend can; says of each why not.
    """
    passed_over: list[str] = []
    for name in _candidates(topology):
        try:
            backend = get(name)()
            if reasons := backend.can_run(topology, images):
                passed_over.append(f"{name}: {'; '.join(reasons)}")
                continue
            version = await backend.probe()
        except BackendUnavailable as exc:
            cure = f" ({exc.resolution})" if exc.resolution else ""
            passed_over.append(f"{name}: {exc.reason}{cure}")
            continue
        return Choice(name, _why(name, version, passed_over))
    reasons_each = "\n".join(passed_over) or "none is installed"
    raise BackendUnavailable(
        "auto",
        f"no backend can run topology {topology.name!r} here\n{reasons_each}",
        resolution="make one of them usable, or leave out of the topology what they lack; "
        "`benchscale backends` shows what is there",
    )


def _candidates(topology: Topology) -> Sequence[str]:
    asked_for = {node.backend for node in topology.nodes if node.backend not in {None, "auto"}}
    if len(asked_for) == 1:
        return [str(*asked_for)]
    return names()


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
