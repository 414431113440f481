"""Strict YAML to a topology: every problem at once, each with file, line and column."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_benchscale.errors import Problem, TopologyError
from pytest_benchscale.topology.conditions import Declared, Preset
from pytest_benchscale.topology.fields import Name
from pytest_benchscale.topology.model import Metadata, Topology
from pytest_benchscale.topology.report import Report, checked
from pytest_benchscale.topology.scalars import describe, is_missing
from pytest_benchscale.topology.source import Items, Place, Section, from_python, parse, read

__all__ = ["load", "load_dict", "load_presets", "load_text"]


def load(
    path: str | Path,
    *,
    presets: Sequence[Path] = (),
    backends: Collection[str] | None = None,
) -> Topology:
    """Return the topology in a file.

    `presets` are preset libraries that the topology may use; a later one wins, and the file's own presets
    win over all. `backends` are the names of backends; None: those of this package, and of installed ones.

    Raises:
        TopologyError: with everything that is wrong, in the order of the file.
    """
    path = Path(path)
    return load_text(read(path), path=path, presets=presets, backends=backends)


def load_text(
    text: str,
    *,
    path: str | Path | None = None,
    presets: Sequence[Path] = (),
    backends: Collection[str] | None = None,
) -> Topology:
    """Return the topology in a text; `path` is where it comes from. Otherwise the same as `load`."""
    source = None if path is None else Path(path)
    root, problems = parse(text, source)
    return _topology(root, Report(source, problems), presets, backends)


def load_dict(
    data: Mapping[str, Any],
    *,
    presets: Sequence[Path] = (),
    backends: Collection[str] | None = None,
) -> Topology:
    """Return the topology of data in the shape of a file. Otherwise the same as `load`."""
    return _topology(from_python(data), Report(None), presets, backends)


class _PresetLibrary(Declared):
    """A file of presets."""

    metadata: Metadata | None = None
    presets: dict[Name, Preset]


def load_presets(path: str | Path) -> Mapping[str, Preset]:
    """Return the presets of a library: a file with nothing but `presets`.

    Raises:
        TopologyError: with everything that is wrong.
    """
    path = Path(path)
    root, problems = parse(read(path), path)
    report = Report(path, problems)
    section = _mapping(root, report, "a preset library holds `presets`")
    if "nodes" in section:
        place = section.keys_at["nodes"]
        message = "this is a topology, not a preset library, which has nothing but `presets`"
        raise TopologyError([Problem(path, place.line, place.column, "nodes", message)])
    return checked(_PresetLibrary, section, report, None).presets


def _topology(
    root: Any, report: Report, presets: Sequence[Path], backends: Collection[str] | None
) -> Topology:
    library: dict[str, Preset] = {}
    for path in presets:
        library.update(load_presets(path))
    section = _mapping(root, report, "a topology has at least `nodes`")
    _refuse_a_library(section, report)
    _check_keys(section, report)
    _name_it(section, report.path)
    _lend(section, library)
    topology = checked(Topology, section, report, backends)
    return topology if report.path is None else topology.placed_at(report.path.absolute())


def _mapping(root: Any, report: Report, expected: str) -> Section:
    if isinstance(root, Section):
        return root
    place = root.place if isinstance(root, Items) else Place(1, 1) if report.path else Place()
    problem = f"must be a mapping, is {describe(root)}; {expected}"
    raise TopologyError([Problem(report.path, place.line, place.column, "", problem)])


def _refuse_a_library(root: Section, report: Report) -> None:
    if "presets" in root and not root.keys() - {"presets", "metadata"}:
        message = (
            "this is a preset library, not a topology: it has no `nodes`; name it in the ini option "
            "benchscale_presets to use its presets"
        )
        report.add(root.keys_at["presets"], "presets", message)
        report.conclude()


def _check_keys(root: Section, report: Report) -> None:
    """Settle what depends on which keys stand together at the top."""
    if not is_missing(root.get("network")) and not is_missing(root.get("networks")):
        at, first = root.keys_at["network"], root.keys_at["networks"]
        extra, place = ("network", at) if at.line > first.line else ("networks", first)
        report.add(place, extra, "give either `network` or `networks`, not both")
        del root["network"]
    if "validation" in root and "metadata" not in root:
        # Files of the Rust benchScale have both. Without metadata it is the dialect before, where nothing
        # of what stands there is honoured: it belongs in the report with the rest.
        report.add(root.keys_at["validation"], "validation", "unknown key without `metadata`")
        del root["validation"]


def _name_it(root: Section, path: Path | None) -> None:
    """Give a topology without a name that of its file."""
    name = (path.stem.strip() if path else "") or "topology"
    if is_missing(root.get("metadata")):
        root.put("metadata", Section(), Place(), Place())
    metadata = root["metadata"]
    if isinstance(metadata, Section) and is_missing(metadata.get("name")):
        metadata.put("name", name, metadata.place, metadata.place)


def _lend(root: Section, library: Mapping[str, Preset]) -> None:
    """Add the presets of libraries where the file does not have its own of that name."""
    if library and is_missing(root.get("presets")):
        root.put("presets", Section(), Place(), Place())
    own = root.get("presets")
    if isinstance(own, Section):
        for name, preset in library.items():
            if name not in own:
                own.put(name, preset, Place(), Place())
