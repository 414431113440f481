"""From data to a model, or to the report of everything that is wrong with it.

What does not pass its model is reported and taken out, and the checks across parts run on the rest: one
mistake does not hide another, and none is reported twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pytest_benchscale.errors import Problem, TopologyError
from pytest_benchscale.topology.checks import KEY, Loc, Unsure, find
from pytest_benchscale.topology.hints import about_unknown_key, model_at
from pytest_benchscale.topology.model import UNCHECKED, Topology
from pytest_benchscale.topology.scalars import describe
from pytest_benchscale.topology.source import Items, Place, Section, path_to

__all__ = ["Report", "checked"]

_MOST_PROBLEMS = 1000
_MOST_ROUNDS = 20

_Model = TypeVar("_Model", bound=BaseModel)


class Report:
    """The problems of one file, each only once; `problems` are those that are known before."""

    def __init__(self, path: Path | None, problems: Sequence[Problem] = ()) -> None:
        self.path = path
        self._problems = [(Place(item.line, item.column), item) for item in problems]
        self._seen: set[tuple[Place, str]] = set()

    def add(self, place: Place, where: str, message: str) -> None:
        """Add a problem. What an alias repeats is one problem, at its one place."""
        if (place, message) not in self._seen:
            self._seen.add((place, message))
            column = place.column if place.line else 0
            problem = Problem(self.path, place.line, column, where, message)
            self._problems.append((place, problem))

    def conclude(self) -> None:
        """Raise what there is, in the order of the file.

        Raises:
            TopologyError: there is a problem.
        """
        if not self._problems:
            return
        by_place = sorted(self._problems, key=lambda item: item[0])
        in_order = [problem for _, problem in by_place]
        more = len(in_order) - _MOST_PROBLEMS
        resolution = f"correct these first; there are {more} more" if more > 0 else None
        raise TopologyError(in_order[:_MOST_PROBLEMS], resolution=resolution)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a location of the model is in the data; `container` and `key` hold it there."""

    place: Place
    where: str
    container: Section | Items | None
    key: str | int | None
    is_there: bool


def _as_written(root: Section, loc: Loc) -> Loc:
    """Return a location of the model as the location in the data: short forms are written elsewhere."""
    if loc[:1] == ("networks",) and "networks" not in root and "network" in root:
        return ("network", *loc[2:])
    if loc[2:] == ("network_conditions", "preset") and loc[0] == "nodes":
        node = root["nodes"][loc[1]]
        if isinstance(node, Section) and "network_conditions_preset" in node:
            return (*loc[:2], "network_conditions_preset")
    return loc


def _locate(root: Section, loc: Loc) -> _Spot:
    node: Any = root
    spot = _Spot(root.place, "", None, None, is_there=True)
    for step in _as_written(root, loc):
        if step == KEY and isinstance(spot.container, Section):
            at_key = spot.container.keys_at[str(spot.key)]
            return _Spot(at_key, spot.where, spot.container, spot.key, is_there=True)
        if isinstance(node, Section) and step in node:
            place, shown = node.values_at[str(step)], step
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node):
            place, shown = node.values_at[step], node.indices[step]
        else:
            return _Spot(spot.place, spot.where, spot.container, spot.key, is_there=False)
        spot = _Spot(place, path_to(spot.where, shown), node, shown, is_there=True)
        node = node[step]
    return spot


def checked(
    model: type[_Model], root: Section, report: Report, backends: Collection[str] | None
) -> _Model:
    """Return the model of the data; `root` is used up.

    Raises:
        TopologyError: with all problems, those that `report` held before included.
    """
    draft = _Draft(model, root, report)
    result: _Model | None = draft.result()
    if isinstance(result, Topology):
        for finding in find(result, draft.unsure(), backends):
            spot = _locate(root, finding.loc)
            first = _named(_locate(root, finding.first)) if finding.first else ""
            report.add(spot.place, spot.where, finding.message.replace("{first}", first))
    report.conclude()
    if result is None:  # pragma: no cover - each round takes out what failed
        raise AssertionError("data without problems that makes no model")
    return result


def _named(spot: _Spot) -> str:
    return f"{spot.where} (line {spot.place.line})" if spot.place.line else spot.where


class _Draft:
    """Data on its way to a model: what fails is reported, taken out and remembered as lost."""

    def __init__(self, model: type[BaseModel], root: Section, report: Report) -> None:
        self.model = model
        self.root = root
        self.report = report
        self._lost: set[str] = set()
        self._damaged: set[int] = set()
        self._placeholders = 0

    def unsure(self) -> Unsure:
        """Return what the checks across parts must not rely on."""
        return Unsure(
            networks="networks" in self._lost,
            subnets="subnets" in self._lost,
            nodes="nodes" in self._lost,
            presets="presets" in self._lost,
            damaged_nodes=frozenset(self._damaged),
        )

    def result(self) -> Any:
        """Return the model of what can be used, None when nothing can."""
        for round_ in range(_MOST_ROUNDS):
            try:
                return self.model.model_validate(self.root, context=UNCHECKED)
            except ValidationError as error:
                errors = error.errors(include_url=False)
            spots = []
            for details in errors:
                loc: Loc = details["loc"]
                spot = _locate(self.root, loc)
                meant = self._describe(details, spot, is_first=round_ == 0)
                self._remember(loc, meant)
                spots.append((loc, spot))
            for loc, spot in spots:
                self._take_out(loc, spot)
        return None

    def _describe(self, details: ErrorDetails, spot: _Spot, *, is_first: bool) -> str:
        """Report a problem, unless it is the consequence of one; return the key that was meant."""
        loc, meant, place = details["loc"], "", spot.place
        if details["type"] == "extra_forbidden" and isinstance(spot.container, Section):
            key = str(loc[-1])
            model = model_at(self.model, loc[:-1])
            message, meant = about_unknown_key(model, key)
            place = spot.container.keys_at[key]
        else:
            message = _message(details, is_written=spot.is_there)
        if is_first:
            self.report.add(place, spot.where, message)
        return meant

    def _remember(self, loc: Loc, meant: str) -> None:
        """Note what is lost with the value at a location, or with the key that was meant by it."""
        section, key = loc[0] if loc else "", meant or str(loc[-1] if loc else "")
        if section not in {"networks", "nodes", "presets"}:
            section = "networks" if key == "network" else key
        whole = len(loc) <= 2 or (len(loc) == 3 and key == "name")
        if section == "networks":
            self._lost.update(["networks", "subnets"] if whole else [])
            self._lost.update(["subnets"] if key == "subnet" else [])
        elif section in {"nodes", "presets"} and whole:
            self._lost.add(str(section))
        if section == "nodes" and len(loc) > 1:
            self._damaged.add(int(loc[1]))

    def _take_out(self, loc: Loc, spot: _Spot) -> None:
        """Remove what failed; nodes and networks are replaced, so that the others keep their index."""
        is_part = loc[:1] in {("nodes",), ("networks",)} and self.model is Topology
        if is_part and len(loc) == 3 and loc[2] == "name":
            self._part(loc).put("name", self._placeholder(), spot.place, spot.place)
        elif is_part and len(loc) == 2:
            self._replace(loc, self._nameless(spot.place))
        elif loc == ("nodes",):
            nodes = Items(spot.place)
            nodes.put(self._nameless(spot.place), spot.place)
            self.root.put("nodes", nodes, spot.place, spot.place)
        elif spot.is_there or spot.container is None:
            _drop(spot.container, spot.key)
        else:  # a required key is missing: the mapping that needs it goes
            self._take_out(loc[:-1], _locate(self.root, loc[:-1]))

    def _part(self, loc: Loc) -> Section:
        part = self.root
        for step in _as_written(self.root, loc)[:-1]:
            part = part[step]  # type: ignore[index]  # an index where it is a list
        return part

    def _replace(self, loc: Loc, value: Section) -> None:
        written = _as_written(self.root, loc)
        if len(written) == 1:
            self.root.put(str(written[0]), value, value.place, value.place)
        else:
            self.root[str(written[0])][written[1]] = value

    def _placeholder(self) -> str:
        self._placeholders += 1
        return f"benchscale-nameless-{self._placeholders}"

    def _nameless(self, place: Place) -> Section:
        section = Section(place)
        section.put("name", self._placeholder(), place, place)
        return section


def _drop(container: Section | Items | None, key: str | int | None) -> None:
    """Remove a value that may have gone with its neighbours already."""
    if isinstance(container, Section):
        container.pop(str(key), None)
    elif isinstance(container, Items) and key in container.indices:
        container.drop(container.indices.index(int(key or 0)))


_LISTS = {"tuple_type", "list_type"}
_MAPPINGS = {"dict_type", "mapping_type", "model_type", "model_attributes_type"}


def _message(details: ErrorDetails, *, is_written: bool) -> str:
    """Return an error of pydantic's in our words; `is_written`: the key is there, with or without a value."""
    kind, value = details["type"], details["input"]
    if kind == "missing" and not is_written:
        return f"the required key {details['loc'][-1]!r} is missing"
    if kind == "missing":
        return "must not be empty"
    if kind in _LISTS:
        hint = "" if isinstance(value, dict) else "; put it in brackets, [ ... ]"
        return f"must be a list, is {describe(value)}{hint}"
    if kind in _MAPPINGS:
        return f"must be a mapping, KEY: VALUE, is {describe(value)}"
    message = details["msg"]
    return message[:1].lower() + message[1:]
