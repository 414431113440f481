"""What a caller may hand to `exec`, `process` and the waits, checked before anything is done with it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TypedDict

from pytest_benchscale.transports.base import Command

__all__ = [
    "CommandLike",
    "ExecOptions",
    "build_command",
    "check_timeout",
    "did_you_mean",
    "encode",
    "is_number",
    "is_whole",
    "node_path",
]

CommandLike = str | Sequence[str | os.PathLike[str]]


class ExecOptions(TypedDict, total=False):
    """The options of `Node.exec`, by name."""

    input: str | bytes | None
    env: Mapping[str, str] | None
    cwd: str | PurePath | None
    user: str | int | None
    timeout: float | None
    check: bool


def build_command(
    command: CommandLike,
    env: Mapping[str, str] | None = None,
    cwd: str | PurePath | None = None,
    user: str | int | None = None,
) -> tuple[str | tuple[str, ...], Command]:
    """Return a command as it is shown and as it is run: text goes through `/bin/sh -c`.

    Raises:
        TypeError, ValueError: something about it cannot be run.
    """
    __tracebackhide__ = True
    shown: str | tuple[str, ...]
    if isinstance(command, str):
        shown = _clean("a command", command)
        argv: tuple[str, ...] = ("/bin/sh", "-c", command)
    elif isinstance(command, bytes | bytearray | memoryview) or not _is_sequence(command):
        raise TypeError(f"a command is text or a sequence of texts, not {_kind(command)}")
    else:
        argv = shown = tuple(_argument(item) for item in command)
    if not argv or not argv[0] or (isinstance(shown, str) and not shown.strip()):
        raise ValueError("the command is empty")
    return shown, Command(
        argv,
        env=_environment(env or {}),
        cwd=None if cwd is None else node_path(cwd),
        user=None if user is None else _user(user),
    )


def check_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds that makes sense: positive, or None for no deadline."""
    __tracebackhide__ = True
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"a timeout is a number of seconds or None, not {_kind(timeout)}")
    if math.isnan(timeout) or timeout <= 0:
        raise ValueError(f"a timeout is positive, not {timeout:g} s; None is no deadline")
    return timeout


def encode(data: str | bytes | bytearray | memoryview) -> bytes:
    """Return input as bytes; text becomes UTF-8."""
    __tracebackhide__ = True
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"what is written is text or bytes, not {_kind(data)}")


def node_path(path: str | PurePath) -> str:
    """Return a path inside a node as text."""
    __tracebackhide__ = True
    if not isinstance(path, str | PurePath):
        raise TypeError(f"a path in a node is text or a path, not {_kind(path)}")
    text = _clean("a path", str(path))
    if not text:
        raise ValueError("the path is empty")
    return text


def is_number(value: object) -> bool:
    """Return whether a figure from outside is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Return whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _environment(env: Mapping[str, str]) -> Mapping[str, str]:
    __tracebackhide__ = True
    for name, value in env.items():
        if {type(name), type(value)} != {str}:
            raise TypeError(f"env holds text only, not {name!r}: {value!r}")
        if not name or "=" in name:
            raise ValueError(f"not the name of an environment variable: {name!r}")
        _clean(f"env {name!r}", name + value)
    return dict(env)


def _argument(item: object) -> str:
    __tracebackhide__ = True
    text = os.fspath(item) if isinstance(item, os.PathLike) else item
    if not isinstance(text, str):
        raise TypeError(f"an argument of a command is text, not {_kind(item)}: {item!r}")
    return _clean("an argument", text)


def _user(user: str | int) -> str:
    __tracebackhide__ = True
    if isinstance(user, bool) or not isinstance(user, str | int):
        raise TypeError(f"a user is a name or a number, not {_kind(user)}")
    text = _clean("a user", str(user))
    if not text or text.startswith("-"):
        raise ValueError(f"not a user: {user!r}")
    return text


def _clean(what: str, text: str) -> str:
    __tracebackhide__ = True
    if "\0" in text:
        raise ValueError(f"{what} cannot hold a NUL character: {text[:80]!r}")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{what} is not valid text: {text[:80]!r}: {exc.reason}") from None
    return text


def _kind(value: object) -> str:
    return type(value).__name__


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about a name that nobody knows: the one it is close to, if any."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
