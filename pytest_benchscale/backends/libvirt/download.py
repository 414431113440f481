"""Download a disk image, once for all sessions of a user.

Each URL has a directory of its own in the cache: the image under its own name, what is known of it, and
while it is on its way the part that is there. A download that broke off is taken up again where the
server says that it still has the same file (RFC 9110, sections 13.1.5 and 14).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_benchscale.backends.libvirt import web
from pytest_benchscale.backends.libvirt.sums import SUM, hash_of, state_of, write_note
from pytest_benchscale.backends.libvirt.web import Broken, Refused, shown
from pytest_benchscale.backends.sharing import Failed, Shared
from pytest_benchscale.errors import LabError

__all__ = ["fetch"]

_CHUNK = 1 << 18
_SAY_SECONDS = 1.0
_LOOK_SECONDS = 0.1  # between two looks at a lock that another session holds
_TRIES = 4  # in a row that bring nothing
_FIRST_PAUSE = 0.25  # seconds; doubled each time
_MB = 1e6
_OWN_NAMES = frozenset({"", "lock", "part", "part.json", "image.json"})  # in a URL's directory


def fetch(
    url: str,
    wanted: str | None,
    directory: Path,
    shared: Shared,
    accept: Callable[[Path], object],
) -> tuple[Path, str]:
    """Return where a URL's file is, and its SHA-256; downloaded if it is not in the cache.

    `wanted` is the sum that it must have. `accept` looks at a new file, and raises when it is of no use;
    such a file is not kept.

    Raises:
        Failed: it cannot be had.
        GivenUp: nobody waits for it any more.
    """
    place = _Place.of(url, directory)
    try:
        place.directory.mkdir(parents=True, exist_ok=True)
        with _locked(place, shared):
            if (digest := place.digest()) is None or wanted not in {None, digest}:
                digest = _Download(url, place, shared).run(wanted, accept)
            return place.image, digest
    except OSError as error:
        raise _no_room(place, error) from error


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a URL's files are kept."""

    directory: Path
    name: str

    @classmethod
    def of(cls, url: str, cache: Path) -> _Place:
        last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[-100:]
        if name in _OWN_NAMES:
            name = f"image-{name}"
        return cls(cache / hashlib.sha256(url.encode()).hexdigest()[:16], name)

    @property
    def image(self) -> Path:
        return self.directory / self.name

    @property
    def part(self) -> Path:
        return self.directory / "part"

    @property
    def part_note(self) -> Path:
        return self.directory / "part.json"

    @property
    def note(self) -> Path:
        return self.directory / "image.json"

    def digest(self) -> str | None:
        """Return the sum of the complete file that is there; None when there is none."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            noted = json.loads(self.note.read_text())
            if noted["state"] == state_of(self.image) and SUM.fullmatch(noted["sha256"]):
                return str(noted["sha256"])
        return None

    def drop_part(self) -> None:
        """Forget what is there of a download."""
        self.part.unlink(missing_ok=True)
        self.part_note.unlink(missing_ok=True)


@contextmanager
def _locked(place: _Place, shared: Shared) -> Iterator[None]:
    """Keep other sessions from the same download; wait for one that is under way."""
    with (place.directory / "lock").open("w") as lock:
        has_waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                shared.check()
                if not has_waited:
                    shared.say(f"waiting for {place.name}, which another session downloads")
                has_waited = True
                time.sleep(_LOOK_SECONDS)
        yield


class _Download:
    """One file on its way."""

    def __init__(self, url: str, place: _Place, shared: Shared) -> None:
        self._url = url
        self._place = place
        self._shared = shared
        self._said = 0.0
        self._most = 0  # bytes that were there at some time

    def run(self, wanted: str | None, accept: Callable[[Path], object]) -> str:
        """Download, check and put in place; return the sum."""
        self._say(f"downloading {self._place.name}")
        self._bring_all()
        part = self._place.part
        self._say(f"checking {self._place.name}")
        digest = hash_of(part, self._shared.check)
        self._check(part, digest, wanted, accept)
        part.replace(self._place.image)
        note = {"url": shown(self._url), "sha256": digest, "state": state_of(self._place.image)}
        write_note(self._place.note, note)
        self._place.drop_part()
        return digest

    def _check(
        self, part: Path, digest: str, wanted: str | None, accept: Callable[[Path], object]
    ) -> None:
        is_good = False
        try:
            if wanted not in {None, digest}:
                raise _wrong_sum(self._url, str(wanted), digest)
            accept(part)
            is_good = True
        finally:
            if not is_good:
                self._place.drop_part()

    def _bring_all(self) -> None:
        """Try until all is there; what an attempt brought is kept for the next one."""
        fruitless = 0
        while (broken := self._try()) is not None:
            fruitless = 0 if broken.was_fruitful else fruitless + 1
            if fruitless == _TRIES or isinstance(broken, Refused):
                raise _failed(self._url, broken) from broken
            self._say(f"downloading {self._place.name}: {broken}; trying again")
            self._rest(_FIRST_PAUSE * 2**fruitless)

    def _try(self) -> Broken | None:
        """Try once; return what went wrong."""
        self._most = max(self._most, self._size())
        try:
            self._bring()
        except Broken as broken:
            broken.was_fruitful = self._size() > self._most
            return broken
        return None

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._shared.check()
            time.sleep(min(_LOOK_SECONDS, seconds))

    def _bring(self) -> None:
        """Ask for what is missing, and write it.

        Raises:
            Broken: not all of it came.
            Refused: there will be no more.
        """
        validator, total = self._noted()
        start = self._size() if validator else 0
        if start and start == total:
            return  # it was all there, and its check was broken off
        line = web.Line()
        with self._shared.reading(line):
            try:
                answer = web.get(self._url, line, start, validator)
            except web.NoSuchRange:
                self._place.drop_part()  # more than there is: it is another file
                raise Broken("the file was changed on the server") from None
            with answer:
                self._note(answer)
                self._write(answer)

    def _noted(self) -> tuple[str | None, int | None]:
        """Return what tells the server which file our part is of, and how long that file is."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            noted = json.loads(self._place.part_note.read_text())
            return str(noted["validator"]), noted["total"]
        return None, None

    def _note(self, answer: web.Answer) -> None:
        if answer.start:
            return
        self._place.drop_part()
        if answer.validator is not None:
            note = {"validator": answer.validator, "total": answer.total}
            write_note(self._place.part_note, note)

    def _write(self, answer: web.Answer) -> None:
        have = answer.start
        if answer.total is not None:
            self._check_room(answer.total - have)
        mode = "r+b" if have else "wb"
        with self._place.part.open(mode, buffering=0) as file:
            file.seek(have)
            file.truncate()
            while chunk := answer.read(_CHUNK):
                self._shared.check()
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
                have += len(chunk)
                self._say_how_far(have, answer.total)
        if answer.total is not None and have != answer.total:
            raise Broken(f"the server sent {have:,} of {answer.total:,} bytes")

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._place.directory).free
        if needed > free:
            place = self._place.directory
            raise Failed(
                lambda: LabError(
                    f"the disk image {shown(self._url)!r} does not fit into {place}",
                    step="image",
                    details=f"{needed:,} bytes are to come, and {free:,} are free",
                    resolution="make room there, or set XDG_CACHE_HOME to a directory that has some",
                )
            )

    def _size(self) -> int:
        try:
            return self._place.part.stat().st_size
        except FileNotFoundError:
            return 0

    def _say_how_far(self, have: int, total: int | None) -> None:
        if time.monotonic() - self._said >= _SAY_SECONDS:
            of_all = f" of {total / _MB:.1f}" if total is not None else ""
            self._say(f"downloading {self._place.name}: {have / _MB:.1f}{of_all} MB")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._shared.say(text)


def _failed(url: str, broken: Broken) -> Failed:
    reason, resolution = str(broken), broken.resolution
    return Failed(
        lambda: LabError(
            f"the image {shown(url)!r} cannot be downloaded: {reason}",
            step="image",
            resolution=resolution,
        )
    )


def _wrong_sum(url: str, wanted: str, digest: str) -> Failed:
    return Failed(
        lambda: LabError(
            f"the image {shown(url)!r} has not the SHA-256 that is asked for",
            step="image",
            details=f"asked for:  {wanted}\ndownloaded: {digest}",
            resolution="take the sum that the image's publisher gives for it, and the image from there",
        )
    )


def _no_room(place: _Place, error: OSError) -> Failed:
    reason = error.strerror or str(error)
    return Failed(
        lambda: LabError(
            f"the image {place.name!r} cannot be kept in {place.directory}: {reason}",
            step="image",
            resolution="make room there and let this user write to it, or set XDG_CACHE_HOME to another "
            "directory",
        )
    )
