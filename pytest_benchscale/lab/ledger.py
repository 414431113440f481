"""The ledger: which labs there are outside our process tree, written down before they are made.

    $BENCHSCALE_STATE_DIR or $XDG_STATE_HOME/benchscale or ~/.local/state/benchscale
        labs/LAB/record     lines of JSON: the lab, then what became of it
        labs/LAB/...        files of the lab's own, such as keys

Who has a lab holds a lock on its record, which the kernel lets go when the last process that has it ends.
So whether a lab's owner lives is not a question of numbers that may be used again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.owner import boot_id, since_boot
from pytest_benchscale.lab.record import Kept, LabRecord
from pytest_benchscale.lab.record_file import RECORD, append, read

__all__ = ["Entry", "Found", "Ledger", "Standing", "lock_within", "state_directory"]

_LOOKS = 0.25  # seconds: longer than anybody who only looks at a record has it locked
_PAUSE = 0.01


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
    UNMADE = (
        "never made"  # who wrote it down ended before that was done, and so before making anything
    )
    BROKEN = "cannot be read"


@dataclass(frozen=True, slots=True)
class Found:
    """A lab of the ledger, as it was when it was looked at.

    `record` is None where that cannot be read; `problem` says why. `rebooted`: the machine was
    started anew since the lab was made.
    """

    lab_id: str
    standing: Standing
    record: LabRecord | None
    kept: Kept | None
    problem: str | None = None
    rebooted: bool = False


class Entry:
    """One lab's place in the ledger, ours as long as the lock on it is held.

    `fileno` may be given to another process, which then holds the same lock. `kept` is what was written
    down of the lab when it was kept, if it was.
    """

    def __init__(
        self, directory: Path, descriptor: int, record: LabRecord, kept: Kept | None = None
    ) -> None:
        self.directory = directory
        self.record = record
        self.kept = kept
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the open record."""
        return self._descriptor

    @property
    def standing(self) -> Standing:
        """How it is with the lab when we let go of it now."""
        return _standing_of(self.kept)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line, and wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        append(self._descriptor, event, facts)

    def strike(self) -> None:
        """Nothing of the lab is left: remove it from the ledger.

        Raises:
            LabError: that cannot be done; the lab goes on being listed.
        """
        try:
            _remove(self.directory)
        except OSError as error:
            raise LabError(
                f"the lab cannot be struck off the ledger at {self.directory}: {error.strerror}",
                step="ledger",
                details="nothing else is left of it",
                resolution="give access there, then `benchscale gc --yes`",
            ) from error
        finally:
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
        try:
            self._prepare()
            deadline = time.monotonic() + _LOOKS
            while time.monotonic() < deadline:
                # What is not written to its end may be cleared by another process: see `_enter`.
                with suppress(FileNotFoundError, FileExistsError):
                    return self._enter(record)
                time.sleep(_PAUSE)
            return self._enter(record)
        except OSError as error:
            raise LabError(
                f"the lab cannot be written down in the ledger at {self.directory}: {error.strerror}",
                step="ledger",
                details="nothing is made that could not be found again after a crash",
                resolution="make room or give access there, or choose another directory by "
                "BENCHSCALE_STATE_DIR",
            ) from error

    def take(self, lab_id: str) -> Entry | None:
        """Return a lab that nobody holds, locked for us; None: it is held, gone, or cannot be read."""
        with suppress(OSError):
            descriptor = os.open(self._place(lab_id) / RECORD, _OPEN)
            try:
                if (
                    lock_within(descriptor)
                    and (entry := self._entry(lab_id, descriptor)) is not None
                ):
                    descriptor = -1
                    return entry
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return None

    def visit(self, lab_id: str) -> tuple[Entry, Kept] | None:
        """Return a kept lab, locked so that others may visit it, too, but nobody can take or remove it.

        None: it is held, gone, not kept, or cannot be read.
        """
        with suppress(OSError):
            path = self._place(lab_id) / RECORD
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                entry = self._entry(lab_id, descriptor)
                if entry is not None and entry.kept is not None:
                    descriptor = -1
                    return entry, entry.kept
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return None

    def hold(self, lab_id: str, descriptor: int) -> Entry | None:
        """Return a lab whose open record another process has handed over, locked by it; None: it is not."""
        with suppress(OSError):
            if lock_within(descriptor):
                fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
                return self._entry(lab_id, descriptor)
        return None

    def knows(self, lab_id: str) -> bool:
        """Return whether a lab is written down."""
        with suppress(OSError):
            return self._place(lab_id).exists()
        return False

    def clear(self, lab_id: str) -> bool:
        """Strike off a lab that is `UNMADE`; return whether that was done."""
        with suppress(OSError):
            place = self._place(lab_id)
            if not (place / RECORD).exists():
                place.rmdir()  # which only does it when it is empty
                return True
            descriptor = os.open(place / RECORD, _OPEN)
            try:
                if lock_within(descriptor) and not read(place).begun:
                    _remove(place)
                    return True
            finally:
                os.close(descriptor)
        return False

    def labs(self) -> Iterator[Found]:
        """Go through the labs that are written down, the oldest first.

        Raises:
            LabError: the ledger is there and cannot be read.
        """
        try:
            names = [place.name for place in self._labs.iterdir()]
        except FileNotFoundError:
            return
        except OSError as error:
            raise LabError(
                f"the ledger at {self._labs} cannot be read: {error.strerror}",
                step="ledger",
                resolution="give access there, or choose another directory by BENCHSCALE_STATE_DIR",
            ) from error
        found = [one for name in names if (one := self._look_at(name)) is not None]
        yield from sorted(found, key=lambda one: one.record.created if one.record else 0)

    def _prepare(self) -> None:
        """Have the directory of the labs, which is private.

        Raises:
            OSError: there can be none.
        """
        if not self._labs.exists():
            new = [path for path in (self._labs, *self._labs.parents) if not path.exists()]
            self._labs.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in new:
                _sync_directory(path.parent)
        status = self._labs.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, f"{self._labs} is not a directory")
        if status.st_uid != os.geteuid():
            raise OSError(
                errno.EPERM, f"{self._labs} belongs to another user (UID {status.st_uid})"
            )

    def _enter(self, record: LabRecord) -> Entry:
        place = self._place(record.lab_id)
        place.mkdir(mode=0o700)
        descriptor = -1
        try:
            descriptor = os.open(place / RECORD, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # who looks at it, or clears it, is soon done
            (place / RECORD).stat()  # before that, somebody may have taken it for one left: `clear`
            append(descriptor, "lab", record.to_json())
            _sync_directory(place)
            _sync_directory(self._labs)
        except BaseException:
            with suppress(OSError):
                _remove(place)
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return Entry(place, descriptor, record)

    def _place(self, lab_id: str) -> Path:
        if lab_id in ("", ".", "..") or "/" in lab_id or "\0" in lab_id:
            raise OSError(errno.EINVAL, "that is no lab's id")
        return self._labs / lab_id

    def _entry(self, lab_id: str, descriptor: int) -> Entry | None:
        """Return a locked record as an entry, if it is the lab's, and can be read."""
        place = self._place(lab_id)
        if not os.path.samestat(os.fstat(descriptor), (place / RECORD).stat()):
            return None
        contents = read(place)
        if contents.record is None or contents.problem:
            return None
        return Entry(place, descriptor, contents.record, contents.kept)

    def _look_at(self, lab_id: str) -> Found | None:
        place = self._labs / lab_id
        # Twice: somebody may let go of the lab, or take it, while it is read.
        locked = _is_locked(place / RECORD)
        contents = read(place)
        locked = locked or _is_locked(place / RECORD)
        record, kept, problem = contents.record, contents.kept, contents.problem
        if not place.is_dir():
            return None  # it was struck off meanwhile
        if locked:
            return Found(lab_id, Standing.LIVE, record, None)
        if not contents.begun and _has_no_files(place):
            return Found(lab_id, Standing.UNMADE, None, None)
        if record is None or problem:
            return Found(lab_id, Standing.BROKEN, record, None, problem)
        now = boot_id()
        rebooted = bool(now) and record.labels.get("benchscale.boot") not in ("", None, now)
        return Found(lab_id, _standing_of(kept), record, kept, rebooted=rebooted)


_OPEN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def _has_no_files(place: Path) -> bool:
    """Return whether there is nothing beside a record, or not even the directory any more."""
    try:
        return {path.name for path in place.iterdir()} <= {RECORD}
    except FileNotFoundError:
        return True


def _standing_of(kept: Kept | None) -> Standing:
    """Return how it is with a lab that nobody holds."""
    if kept is None:
        return Standing.LEFT
    return Standing.EXPIRED if _is_over(kept) else Standing.KEPT


def _is_over(kept: Kept) -> bool:
    """Return whether the time of a kept lab is over; the time since the boot counts, where it is known."""
    if kept.until_booted is not None:
        return kept.until_booted <= since_boot()
    return kept.until is not None and kept.until <= time.time()


def lock_within(descriptor: int, seconds: float = _LOOKS) -> bool:
    """Lock what is open, unless somebody has it for longer than this.

    Who only looks at a record has it locked for a moment, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        else:
            return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(place: Path) -> None:
    """Remove a lab's directory, the record last: without it, nobody would know what the rest is.

    Raises:
        OSError: something of it cannot be removed.
    """
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RECORD:
            path.unlink(missing_ok=True)
    (place / RECORD).unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # without a record, another process may have cleared it
        place.rmdir()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
