"""From the sources of a mark to topologies: files are looked for, and each is loaded once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_benchscale.errors import BenchscaleError, TopologyError
from pytest_benchscale.lab.settings import check_backend

if TYPE_CHECKING:
    from pytest_benchscale.topology.model import Topology

__all__ = ["TopologySources", "backend_of_mark", "reset_of_mark"]

_MARK = "@pytest.mark.topology(*sources, backend=None, reset=None)"


def backend_of_mark(sources: Sequence[object], keywords: Mapping[str, Any]) -> str | None:
    """Check the arguments of a mark, except for what its sources hold, and return its backend.

    Raises:
        BenchscaleError: they cannot be meant; one line.
    """
    if unknown := sorted(set(keywords) - {"backend", "reset"}):
        raise BenchscaleError(f"{_MARK} has no keyword {', '.join(map(repr, unknown))}")
    if not sources:
        raise BenchscaleError(f"{_MARK} needs a source: a topology file or a Topology")
    backend = keywords.get("backend")
    if backend is None:
        return None
    if not isinstance(backend, str):
        raise BenchscaleError(f"{_MARK}: backend is a name, not {backend!r}")
    check_backend(_MARK, backend)
    return backend


def reset_of_mark(keywords: Mapping[str, Any]) -> bool:
    """Return whether a mark wants the lab as it was when first ready, for each of its tests.

    Raises:
        BenchscaleError: its `reset` cannot be meant; one line.
    """
    reset = keywords.get("reset")
    if reset not in (None, "test"):
        raise BenchscaleError(
            f'{_MARK}: reset is "test" (each test gets the lab as it was when first ready) '
            f"or None, not {reset!r}"
        )
    return reset is not None


class TopologySources:
    """What marks name, loaded. A file that is wrong is loaded once, too."""

    def __init__(self, search_path: Sequence[Path], presets: Sequence[Path]) -> None:
        self._search_path = search_path
        self._presets = presets
        self._loaded: dict[Path, Topology | TopologyError] = {}

    def get(self, source: object, beside: Path) -> Topology:
        """Return a source's topology; a relative path is looked up in `beside` first.

        Raises:
            TopologyError: the file is wrong.
            BenchscaleError: there is no such file, or the source is none.
        """
        from pytest_benchscale.topology.model import Topology  # noqa: PLC0415  only for marked tests

        if isinstance(source, Topology):
            return source
        if not isinstance(source, (str, os.PathLike)):
            raise BenchscaleError(
                f"a topology is a path or a Topology, not {source!r}",
                resolution='name a file, as in @pytest.mark.topology("simple-lan.yaml")',
            )
        path = self._find(Path(source), beside)
        if path not in self._loaded:
            try:
                self._loaded[path] = Topology.load(path, presets=self._presets)
            except TopologyError as error:
                self._loaded[path] = error
        loaded = self._loaded[path]
        if isinstance(loaded, TopologyError):
            raise loaded
        return loaded

    def _find(self, path: Path, beside: Path) -> Path:
        path = Path(os.path.expanduser(path))  # noqa: PTH111  pathlib's raises where there is no home
        places = dict.fromkeys(place / path for place in (beside, *self._search_path))
        for place in places:
            if place.exists():
                return Path(os.path.abspath(place))  # noqa: PTH100  keeps a symbolic link's directory
        raise BenchscaleError(
            f"topology file {str(path)!r} was not found",
            details="\n".join(["looked for:", *(f"  {place}" for place in places)]),
            resolution="put it beside the test, or name its directory in benchscale_topology_path",
        )
