"""The file of one lab in the ledger: lines of JSON, added and never changed.

Each is written as an empty line and then itself, so that one that was torn by a full disk or a crash spoils
no later one. A line that was torn was never finished, and so counts for nothing. One that is whole and yet
cannot be read is another matter: nobody knows what it said, so the lab is left alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_benchscale.lab.owner import boot_id
from pytest_benchscale.lab.record import FORMAT, Kept, LabRecord

__all__ = ["RECORD", "Contents", "append", "read"]

RECORD = "record"
_LARGEST = 16 * 1024 * 1024  # bytes; a topology has at most one MiB


@dataclass(frozen=True, slots=True)
class Contents:
    """What the lines come to.

    `problem` says why they cannot be relied on. `begun` is whether there is any whole line: without one,
    nothing of the lab was made.
    """

    record: LabRecord | None = None
    kept: Kept | None = None
    problem: str | None = None
    begun: bool = True


def append(descriptor: int, event: str, facts: Mapping[str, Any]) -> None:
    """Add a line, and wait until it is on the disk.

    Raises:
        OSError: it cannot be written; then nothing was added.
    """
    line = json.dumps({"event": event, "at": time.time(), "boot": boot_id(), **facts})
    data, before = f"\n{line}\n".encode(), os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def read(place: Path) -> Contents:
    """Return what is written of the lab whose directory this is."""
    try:
        status = (place / RECORD).stat()
        if status.st_uid != os.geteuid():
            return Contents(problem="it belongs to another user")
        if status.st_size > _LARGEST:
            return Contents(problem="it is too large")
        text = (place / RECORD).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Contents(problem="there is no record", begun=False)
    except OSError as error:
        return Contents(problem=error.strerror)
    lines = [line for line in text[: text.rfind("\n") + 1].split("\n") if line]
    contents = Contents(problem="it is empty", begun=False)
    for line in lines:
        contents = _after(contents, line, place.name)
    return contents


def _after(before: Contents, line: str, lab_id: str) -> Contents:
    """Return what is known after one more whole line."""
    try:
        facts = json.loads(line)
        event, _, boot = facts.pop("event"), facts.pop("at"), facts.pop("boot")
        if event == "lab":
            return _first(facts, lab_id)
        kept = _since_boot(Kept.from_json(facts), boot) if event == "kept" else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return replace(before, problem=f"a line of it cannot be read: {error}", begun=True)
    if event in ("kept", "taken") and before.record is not None:
        return Contents(before.record, kept)
    return replace(before, begun=True)


def _first(facts: Mapping[str, Any], lab_id: str) -> Contents:
    """Return what the line that makes a record says.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    if facts.get("format", 0) > FORMAT:
        return Contents(problem="a newer version of pytest-benchscale has written it")
    record = LabRecord.from_json(facts)
    if record.lab_id != lab_id:
        return Contents(problem=f"it is that of another lab, {record.lab_id}")
    return Contents(record)


def _since_boot(kept: Kept, boot: str) -> Kept:
    """Return it without what counts from a boot that is past."""
    if boot and boot == boot_id():
        return kept
    return replace(kept, until_booted=None)
