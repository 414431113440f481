"""Scalars: what the plain ones of a YAML file stand for, and how error messages name a value.

YAML 1.2 decides: only true, false, null and numbers are special, so `NO`, `yes`, `22:22` and
`52:54:00:12:34:56` are text. What is special keeps its spelling beside its value, since a field that wants
text wants it as it was written: `mode: 0755` is `0755`, and `NODE_ID: 1` is `"1"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "PlainScalar",
    "describe",
    "is_missing",
    "plain_data",
    "plain_key",
    "resolve",
    "shorten",
]

_LONGEST_QUOTE = 60


@dataclass(frozen=True, slots=True)
class PlainScalar:
    """A plain scalar of a YAML file that is a number, a boolean or null: its spelling and its value."""

    text: str
    value: int | float | bool | None


def describe(value: object) -> str:
    """Return how an error message names a value: `the text 'yes'`, `5`, `true`, `a list`."""
    if isinstance(value, PlainScalar):
        return "empty" if value.value is None and not value.text else shorten(value.text)
    if isinstance(value, str):
        return f"the text {shorten(value)!r}" if value else "an empty text"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "a mapping"
    is_list = isinstance(value, (list, tuple, set, frozenset))
    return "a list" if is_list else f"a {type(value).__name__}"


def shorten(text: str) -> str:
    """Return a text, cut where it is too long for a message."""
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."


def is_missing(value: object) -> bool:
    """Return whether a key was written without a value: `env:`."""
    return value is None or (isinstance(value, PlainScalar) and value.value is None)


def plain_key(key: object) -> str:
    """Return a mapping's key as text."""
    return key.text if isinstance(key, PlainScalar) else str(key)


def plain_data(value: object) -> Any:
    """Return free-form data as ordinary Python objects, numbers as numbers."""
    if isinstance(value, PlainScalar):
        return value.value
    if isinstance(value, Mapping):
        return {plain_key(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    return value


_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER = re.compile(
    r"(?P<int>[-+]?[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hex>[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<inf>[-+]?\.(?:inf|Inf|INF))|(?P<nan>\.(?:nan|NaN|NAN))",
    re.ASCII,
)
_LONGEST_INT = 30  # digits; a longer one is not a figure, and slow to convert


def resolve(text: str) -> str | PlainScalar:
    """Return what a plain scalar stands for in YAML 1.2's core schema."""
    if text in _WORDS:
        return PlainScalar(text, _WORDS[text])
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    kind = str(match.lastgroup)
    digits = match[kind]
    if kind in {"inf", "nan"}:
        return PlainScalar(text, float(digits.replace(".", "")))
    if kind == "float" or len(digits) > _LONGEST_INT:
        return PlainScalar(text, float(digits) if kind in {"int", "float"} else float("inf"))
    return PlainScalar(text, int(digits, {"int": 10, "octal": 8, "hex": 16}[kind]))
