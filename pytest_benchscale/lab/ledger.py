"""The ledger: which labs there are outside our process tree, written down before they are made.

    $BENCHSCALE_STATE_DIR or $XDG_STATE_HOME/benchscale or ~/.local/state/benchscale
        labs/LAB/record     lines of JSON: the lab, then what became of it
        labs/LAB/...        files of the lab's own, such as keys

Who has a lab holds a lock on its record, which the kernel lets go when the last process that has it ends.
So whether a lab's owner lives is not a question of numbers that may be used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.record import Kept, LabRecord

__all__ = ["Entry", "Found", "Ledger", "Standing", "state_directory"]

_RECORD = "record"


def state_directory() -> Path:
    """Return where the ledger of this user is."""
    if chosen := os.environ.get("BENCHSCALE_STATE_DIR"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "benchscale"


class Standing(StrEnum):
    """How it is with a lab that the ledger knows."""

    LIVE = "in use"
    KEPT = "kept"
    EXPIRED = "kept, and its time is over"
    LEFT = "left behind"  # its owner is dead
    BROKEN = "cannot be read"


class Found:
    """A lab of the ledger, as it was when it was looked at. `record` is None where that cannot be read."""

    def __init__(
        self, lab_id: str, standing: Standing, record: LabRecord | None, kept: Kept | None
    ) -> None:
        self.lab_id = lab_id
        self.standing = standing
        self.record = record
        self.kept = kept


class Entry:
    """One lab's place in the ledger, ours as long as the lock on it is held.

    `fileno` may be given to another process, which then holds the same lock.
    """

    def __init__(self, directory: Path, descriptor: int, record: LabRecord) -> None:
        self.directory = directory
        self.record = record
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the open record."""
        return self._descriptor

    def note(self, event: str, **facts: Any) -> None:
        """Add a line, and wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps({"event": event, "at": time.time(), **facts})
        _write_all(self._descriptor, f"\n{line}\n".encode())  # what was torn before ends here
        os.fsync(self._descriptor)

    def strike(self) -> None:
        """Nothing of the lab is left: remove it from the ledger."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.let_go()

    def let_go(self) -> None:
        """Leave the lab as it is written down. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Ledger:
    """The ledger in a directory, which need not exist until the first lab is entered."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or state_directory()
        self._labs = self.directory / "labs"

    def enter(self, record: LabRecord) -> Entry:
        """Write a lab down, and return when that is on the disk.

        Raises:
            LabError: it cannot be written; nothing may be made then.
        """
        place = self._labs / record.lab_id
        try:
            self._labs.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.mkdir(mode=0o700)
            descriptor = os.open(
                place / _RECORD,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            entry = Entry(place, descriptor, record)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                entry.note("lab", **record.to_json())
                _sync_directory(place)
                _sync_directory(self._labs)
            except BaseException:
                entry.strike()
                raise
        except OSError as error:
            raise LabError(
                f"the lab cannot be written down in the ledger at {self.directory}: {error.strerror}",
                step="ledger",
                details="nothing is made that could not be found again after a crash",
                resolution="make room or give access there, or choose another directory by "
                "BENCHSCALE_STATE_DIR",
            ) from error
        return entry

    def take(self, lab_id: str) -> Entry | None:
        """Return a lab that nobody holds, locked for us; None: it is held, gone, or cannot be read."""
        place = self._labs / lab_id
        try:
            descriptor = os.open(place / _RECORD, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record, _ = _read(place)
            if record is not None and os.fstat(descriptor).st_nlink:
                return Entry(place, descriptor, record)
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

    def visit(self, lab_id: str) -> tuple[Entry, Kept] | None:
        """Return a kept lab, locked so that others may visit it, too, but nobody can take or remove it.

        None: it is held, gone, not kept, or cannot be read.
        """
        place = self._labs / lab_id
        try:
            descriptor = os.open(place / _RECORD, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            record, kept = _read(place)
            if record is not None and kept is not None and os.fstat(descriptor).st_nlink:
                return Entry(place, descriptor, record), kept
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

    def labs(self) -> Iterator[Found]:
        """Go through the labs that are written down, the oldest first."""
        try:
            names = [place.name for place in self._labs.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return
        found = [self._look_at(name) for name in names]
        yield from sorted(found, key=lambda one: one.record.created if one.record else 0)

    def _look_at(self, lab_id: str) -> Found:
        place = self._labs / lab_id
        record, kept = _read(place)
        if record is None:
            return Found(lab_id, Standing.BROKEN, None, None)
        if _is_locked(place / _RECORD):
            return Found(lab_id, Standing.LIVE, record, kept)
        if kept is None:
            return Found(lab_id, Standing.LEFT, record, None)
        expired = kept.until is not None and kept.until < time.time()
        return Found(lab_id, Standing.EXPIRED if expired else Standing.KEPT, record, kept)


def _read(place: Path) -> tuple[LabRecord | None, Kept | None]:
    """Return what the lines of a record come to; a line that is none is passed over."""
    record, kept = None, None
    with suppress(OSError):
        for line in (place / _RECORD).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                facts = json.loads(line)
                event, _ = facts.pop("event"), facts.pop("at")
                if event == "lab":
                    record = LabRecord.from_json(facts)
                elif event == "kept":
                    kept = Kept.from_json(facts)
                elif event == "taken":
                    kept = None
    return record, kept


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
