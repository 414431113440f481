"""SHA-256 sums of large files, worked out once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["SUM", "hash_of", "state_of", "sum_of", "write_note"]

SUM = re.compile("[0-9a-f]{64}")
"""What a sum looks like."""

_CHUNK = 1 << 20


def hash_of(path: Path, check: Callable[[], None]) -> str:
    """Return the SHA-256 of a file in hex; `check` is called now and then, and may raise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            check()
            digest.update(chunk)
    return digest.hexdigest()


def sum_of(path: Path, cache: Path, check: Callable[[], None]) -> str:
    """Return the SHA-256 of a file; noted in `cache` for as long as the file is not touched."""
    state = state_of(path)
    note = cache / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    with suppress(OSError, ValueError, TypeError, KeyError):
        noted = json.loads(note.read_text())
        if noted["state"] == state and SUM.fullmatch(noted["sha256"]):
            return str(noted["sha256"])
    digest = hash_of(path, check)
    with suppress(OSError):  # then it is worked out again
        cache.mkdir(parents=True, exist_ok=True)
        write_note(note, {"path": str(path), "state": state, "sha256": digest})
    return digest


def state_of(path: Path) -> list[int]:
    """Return what changes when a file is replaced or written to."""
    status = path.stat()
    return [
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]


def write_note(path: Path, content: object) -> None:
    """Write a small file of JSON that is there as a whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(content, file)
    Path(file.name).replace(path)
