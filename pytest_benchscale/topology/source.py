"""Reading a YAML file without trusting it: data that knows where each of its values stands.

Size, nesting and the number of values that aliases expand to are limited.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from pytest_benchscale.errors import Problem, TopologyError
from pytest_benchscale.topology.scalars import PlainScalar, plain_key, resolve

__all__ = ["MAX_BYTES", "Items", "Place", "Section", "from_python", "parse", "path_to", "read"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 100
MAX_VALUES = 100_000

_NESTED = f"nested more than {MAX_DEPTH} levels deep"
_TOO_DEEP = "exceeded maximum nesting depth"  # says libyaml, which reads ahead, from 1,000 on

# The C parser is ten times as fast and comes with PyYAML's wheels.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Place(NamedTuple):
    """A place in a file, line and column from 1.

    Data from Python has line 0, and what stands in place of a column only keeps its order.
    """

    line: int = 0
    column: int = 0


_NOWHERE = Place()


class Section(dict[str, Any]):
    """A mapping that knows where it starts, and its keys and values."""

    def __init__(self, place: Place = _NOWHERE) -> None:
        super().__init__()
        self.place = place
        self.keys_at: dict[str, Place] = {}
        self.values_at: dict[str, Place] = {}

    def put(self, key: str, value: Any, key_at: Place, value_at: Place) -> None:
        """Add or replace a key."""
        self[key] = value
        self.keys_at[key] = key_at
        self.values_at[key] = value_at

    def copy(self) -> Section:
        """Return a copy of the whole tree."""
        twin = Section(self.place)
        for key, value in self.items():
            twin.put(key, _copy(value), self.keys_at[key], self.values_at[key])
        return twin


class Items(list[Any]):
    """A list that knows where it starts, and its items, and what their indices were in the file."""

    def __init__(self, place: Place = _NOWHERE) -> None:
        super().__init__()
        self.place = place
        self.values_at: list[Place] = []
        self.indices: list[int] = []

    def put(self, value: Any, at: Place) -> None:
        """Add an item at the end."""
        self.indices.append(len(self))
        self.append(value)
        self.values_at.append(at)

    def drop(self, index: int) -> None:
        """Remove an item; the others keep their places and their indices in the file."""
        del self[index], self.values_at[index], self.indices[index]

    def copy(self) -> Items:
        """Return a copy of the whole tree."""
        twin = Items(self.place)
        for value, at in zip(self, self.values_at, strict=True):
            twin.put(_copy(value), at)
        return twin


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (Section, Items)) else value


def path_to(where: str, step: str | int) -> str:
    """Return the path of a part as messages show it: `nodes[2].env`."""
    if isinstance(step, int):
        return f"{where}[{step}]"
    if not re.fullmatch(r"[\w-]{1,60}", step):
        step = repr(step if len(step) <= 60 else step[:57] + "...")
    return f"{where}.{step}" if where else step


def from_python(data: Any) -> Any:
    """Return ordinary Python data in the form that the loader works on."""
    return _in_order(data, count(1))


def _in_order(data: Any, numbers: Iterator[int]) -> Any:
    if isinstance(data, Mapping):
        section = Section(Place(0, next(numbers)))
        for key, value in data.items():
            place = Place(0, next(numbers))
            section.put(plain_key(key), _in_order(value, numbers), place, place)
        return section
    if isinstance(data, (list, tuple)):
        items = Items(Place(0, next(numbers)))
        for value in data:
            place = Place(0, next(numbers))
            items.put(_in_order(value, numbers), place)
        return items
    return data


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        TopologyError: it cannot be read, is too large, or is not UTF-8 text.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            _refuse(path, "is a directory, not a topology file")
        if not stat.S_ISREG(status.st_mode):
            _refuse(path, "is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _refuse(path, f"cannot be read: {reason}")
    if len(data) > MAX_BYTES:
        _refuse(path, "is larger than 1 MiB, too large for a topology file")
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> str:
    if (offset := data.find(b"\0")) >= 0:
        message = f"is not a text file: NUL byte at byte offset {offset}"
        _refuse(path, message, _place_of(data, offset))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start
        message = f"is not UTF-8: byte 0x{data[offset]:02x} at byte offset {offset}"
        _refuse(path, message, _place_of(data, offset))


def _place_of(data: bytes, offset: int) -> Place:
    before = data[:offset]
    return Place(before.count(b"\n") + 1, offset - before.rfind(b"\n"))


def _refuse(path: Path | None, message: str, place: Place = _NOWHERE, where: str = "") -> NoReturn:
    raise TopologyError([Problem(path, place.line, place.column, where, message)])


_NOT_PRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def parse(text: str, path: Path | None) -> tuple[Any, list[Problem]]:
    """Return the one document in a text, and what is wrong with it as YAML but need not stop us.

    Raises:
        TopologyError: it is not YAML, is empty, holds several documents, or exceeds a limit.
    """
    if len(text) > MAX_BYTES:
        _refuse(path, "is larger than 1 MiB, too large for a topology file")
    text = text.removeprefix("\ufeff")
    if match := _NOT_PRINTABLE.search(text):
        before = text[: match.start()]
        place = Place(before.count("\n") + 1, match.start() - before.rfind("\n"))
        message = f"not valid YAML: the character U+{ord(match[0]):04X} is not allowed"
        _refuse(path, message, place)
    composer = _Composer(path)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.handle(event)
    except yaml.MarkedYAMLError as error:
        _refuse(path, *_explain(error, text))
    if composer.is_empty:
        _refuse(path, "is empty; a topology needs at least `nodes`", Place(1, 1))
    return composer.root, composer.problems


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Place]:
    """Return what the parser says is wrong, and where."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"not valid YAML: {error.problem}", Place(1, 1)
    place = Place(mark.line + 1, mark.column + 1)
    if error.problem == _TOO_DEEP:
        return _NESTED, place
    lines = text.split("\n", place.line)
    if place.line <= len(lines) and lines[place.line - 1][place.column - 1 :].startswith("\t"):
        return "not valid YAML: a tab character; YAML is indented with spaces", place
    context = f" {error.context}" if error.context else ""
    if context and error.context_mark and error.context_mark.line != mark.line:
        context += f" that begins at line {error.context_mark.line + 1}"
    return f"not valid YAML:{context + ',' if context else ''} {error.problem}", place


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read."""

    container: Section | Items
    anchor: str | None
    values_before: int
    height: int = 1
    key: str | None = None
    key_at: Place = _NOWHERE
    is_merge: bool = False
    merged: list[Section] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an anchor names, how many values it expands to and how deep it is."""

    value: Any
    values: int
    height: int


class _Composer:
    """Builds the document from parser events, one level of the file a frame: no recursion."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.root: Any = None
        self.problems: list[Problem] = []
        self._documents = 0
        self._values = 0
        self._frames: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is no document, or one that says nothing."""
        return self._documents == 0 or (
            isinstance(self.root, PlainScalar) and self.root.value is None
        )

    def handle(self, event: yaml.Event) -> None:
        mark = event.start_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else _NOWHERE
        if isinstance(event, yaml.ScalarEvent):
            self._count(place)
            value = self._scalar(event, place)
            if event.anchor:
                self._anchors[event.anchor] = _Anchored(value, 1, 0)
            self._add(value, place, is_merge_key=value == "<<" and event.implicit[0])
        elif isinstance(event, yaml.CollectionStartEvent):
            self._count(place)
            self._open(event, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), place)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fail("a second document starts here; a topology file holds one", place)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> str | PlainScalar:
        text = str(event.value)
        if event.tag is None:
            return resolve(text) if event.implicit[0] else text
        if event.tag in {"!", f"{_TAG}str"}:
            return text
        value = resolve(text)
        kinds = _SCALAR_TAGS.get(event.tag, ())
        if not isinstance(value, PlainScalar) or type(value.value) not in kinds:
            self._note(f"the tag {_shown_tag(event.tag)} does not fit here; leave it out", place)
        return value

    def _open(self, event: Any, place: Place) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in {None, "!", _MAP_TAG if is_mapping else _SEQUENCE_TAG}:
            self._note(f"the tag {_shown_tag(event.tag)} does not fit here; leave it out", place)
        if len(self._frames) >= MAX_DEPTH:
            self._fail(_NESTED, place)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        container = Section(place) if is_mapping else Items(place)
        self._frames.append(_Frame(container, event.anchor, self._values))

    def _close(self) -> None:
        frame = self._frames.pop()
        container = frame.container
        if isinstance(container, Section):
            for merged in frame.merged:
                for key, value in merged.items():
                    if key not in container:
                        container.put(key, value, merged.keys_at[key], merged.values_at[key])
        if frame.anchor:
            values = self._values - frame.values_before + 1
            self._anchors[frame.anchor] = _Anchored(container, values, frame.height)
        if self._frames:
            parent = self._frames[-1]
            parent.height = max(parent.height, frame.height + 1)
        self._add(container, container.place)

    def _alias(self, anchor: str, place: Place) -> None:
        target = self._anchors.get(anchor)
        if target is None:
            if any(frame.anchor == anchor for frame in self._frames):
                self._fail(f"the alias *{anchor} stands inside what it repeats", place)
            self._fail(f"the alias *{anchor} repeats nothing: there is no anchor &{anchor}", place)
        self._count(place, target.values)
        if len(self._frames) + target.height > MAX_DEPTH:
            self._fail(f"{_NESTED} by the alias *{anchor}", place)
        if self._frames:
            parent = self._frames[-1]
            parent.height = max(parent.height, target.height + 1)
        value_at = getattr(target.value, "place", place)
        self._add(_copy(target.value), value_at)

    def _add(self, value: Any, place: Place, *, is_merge_key: bool = False) -> None:
        """Put a finished value where it belongs: into the list, or as a key or a key's value."""
        if not self._frames:
            self.root = value
            return
        frame = self._frames[-1]
        container = frame.container
        if isinstance(container, Items):
            container.put(value, place)
        elif frame.key is None:
            if not isinstance(value, (str, PlainScalar)):
                self._fail("a key must be a text, not a list or a mapping", place)
            frame.key, frame.key_at, frame.is_merge = plain_key(value), place, is_merge_key
        else:
            key, frame.key = frame.key, None
            if frame.is_merge:
                self._merge(frame, value, place)
            elif key in container:
                first = container.keys_at[key]
                message = f"duplicate key; line {first.line}, column {first.column} has it already"
                self._note(message, frame.key_at, path_to(self._where(), key))
            else:
                container.put(key, value, frame.key_at, place)

    def _merge(self, frame: _Frame, value: Any, place: Place) -> None:
        sections = value if isinstance(value, Items) else [value]
        if all(isinstance(section, Section) for section in sections):
            frame.merged.extend(sections)
        else:
            self._note("<< must name a mapping or a list of mappings", place, self._where())

    def _count(self, place: Place, values: int = 1) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._fail(f"holds more than {MAX_VALUES:,} values, aliases expanded", place)

    def _where(self) -> str:
        """Return the path of the innermost container."""
        where = ""
        for frame in self._frames[:-1]:
            step = frame.key if isinstance(frame.container, Section) else len(frame.container)
            where = path_to(where, step or 0)
        return where

    def _note(self, message: str, place: Place, where: str = "") -> None:
        self.problems.append(Problem(self.path, place.line, place.column, where, message))

    def _fail(self, message: str, place: Place) -> NoReturn:
        _refuse(self.path, message, place)


_TAG = "tag:yaml.org,2002:"
_MAP_TAG, _SEQUENCE_TAG = f"{_TAG}map", f"{_TAG}seq"
_SCALAR_TAGS: Mapping[str, tuple[type, ...]] = {
    f"{_TAG}int": (int,),
    f"{_TAG}float": (int, float),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}


def _shown_tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
