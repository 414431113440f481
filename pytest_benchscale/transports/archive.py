"""Files and trees from a stream of tar, which can harm nothing.

What is read comes from a node, so it is believed in nothing: each step of a path is one entry of an
open directory, no symlink is followed, and only what lies below the one entry that was asked for is
written. Modes and times are kept; owners are not. Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from pytest_benchscale.transports.archive_reader import Member, bad, members
from pytest_benchscale.transports.archive_writer import CHUNK, pack, pack_bytes

__all__ = ["CHUNK", "pack", "pack_bytes", "read_file", "unpack"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_MODE = 0o1777  # setuid and setgid mean nothing, or harm, under another owner

Place = tuple[str, ...]
"""A path below the directory that is copied into, as its components."""


def unpack(chunks: Iterable[bytes], target_directory: int, name: str | None = None) -> None:
    """Write what a tar stream holds into an open directory, as `name`.

    The stream's first entry is what was copied, the others lie below it. An existing directory is
    merged into, anything else that exists is replaced, except by or with a directory. `name` is one
    component, or `.` for the open directory itself; None keeps the stream's. The stream is read to its end.

    Raises:
        OSError: what cannot be written, or may not, with the name of its entry. What was written
            before stays.
    """
    unpacker = _Unpacker(target_directory, name)
    try:
        for member in members(chunks):
            unpacker.write(member)
        unpacker.finish()
    finally:
        unpacker.close()


def read_file(chunks: Iterable[bytes]) -> bytes:
    """Return the content of the one file that a tar stream holds.

    Raises:
        OSError: it holds something else.
    """
    content = None
    for member in members(chunks):
        if member.kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), member.name)
        if member.kind != stat.S_IFREG or content is not None:
            raise bad("the archive holds something other than one file", member.name)
        content = b"".join(member.content)
    if content is None:
        raise bad("the archive is empty")
    return content


class _Unpacker:
    """One extraction: knows what it may write below, and what is still to be done to directories."""

    def __init__(self, target_directory: int, name: str | None) -> None:
        if name is not None and ("/" in name or name in {"", ".."}):
            raise ValueError(f"not the name of one entry: {name!r}")
        self._target = target_directory
        self._name = name
        self._root: Place | None = None  # how the entries of the stream begin
        self._base: Place = ()  # how their names here do
        self._directories: dict[Place, Member] = {}
        # The directory that was used last, since entries come directory by directory.
        self._open: tuple[Place, int] = ((), os.dup(target_directory))

    def write(self, member: Member) -> None:
        """Write one entry; a directory gets its mode and time in `finish`."""
        place = self._place(member.name)
        try:
            if member.kind == stat.S_IFDIR:
                self._make_directory(place)
                self._directories[place] = member
            elif not place:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            elif member.is_hard_link:
                self._link(self._place(member.target), place)
            else:
                self._make(member, self._directory(place[:-1]), place[-1])
        except OSError as error:
            if error.errno is None:  # not of the system: from whoever gives the chunks
                raise
            raise OSError(error.errno, error.strerror, "/".join(place) or ".") from error

    def finish(self) -> None:
        """Give directories their modes and times, the deepest first: a read-only one is full now."""
        if self._root is None:
            raise bad("the archive is empty")
        for place in sorted(self._directories, key=len, reverse=True):
            try:
                _settle(self._directory(place), self._directories[place])
            except OSError as error:
                raise OSError(error.errno, error.strerror, "/".join(place) or ".") from error

    def close(self) -> None:
        """Close the directory that is still open."""
        os.close(self._open[1])

    def _place(self, path: str) -> Place:
        """Return where an entry goes; the first entry decides what may come after it."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts:
            raise bad("an entry of the archive leads out of it", path)
        place = tuple(part for part in parts if part not in {"", "."})
        if self._root is None:
            if len(place) > 1:
                raise bad("the archive does not begin with what was asked for", path)
            self._root = place
            if self._name is not None:
                self._base = () if self._name == "." else (self._name,)
            else:
                self._base = place
        count = len(self._root)
        if place[:count] != self._root:
            raise bad("an entry of the archive is not of what was asked for", path)
        return self._base + place[count:]

    def _directory(self, place: Place) -> int:
        """Return an open directory, which stays open until the next call."""
        if place == self._open[0]:
            return self._open[1]
        known, start = self._open
        if place[: len(known)] != known:
            known, start = (), self._target
        fd = os.dup(start)
        try:
            for part in place[len(known) :]:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
        except OSError:
            os.close(fd)
            raise
        os.close(self._open[1])
        self._open = (place, fd)
        return fd

    def _make_directory(self, place: Place) -> None:
        if not place:
            return
        parent = self._directory(place[:-1])
        try:
            os.mkdir(place[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(place[-1], dir_fd=parent).st_mode):
                raise

    def _make(self, member: Member, parent: int, name: str) -> None:
        if member.kind == stat.S_IFREG:
            try:
                fd = os.open(name, _WRITE, 0o600, dir_fd=parent)
            except FileExistsError:
                _make_room(parent, name)
                fd = os.open(name, _WRITE, 0o600, dir_fd=parent)
        elif member.kind == stat.S_IFLNK:
            _make_room(parent, name)
            os.symlink(member.target, name, dir_fd=parent)
            time = member.mtime_ns
            os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)
            return
        else:
            _make_room(parent, name)
            os.mkfifo(name, 0o600, dir_fd=parent)
            fd = os.open(name, _READ, dir_fd=parent)
        try:
            for piece in member.content:
                _write_all(fd, piece)
            _settle(fd, member)
        finally:
            os.close(fd)

    def _link(self, source: Place, place: Place) -> None:
        if source == place or not source:
            return
        old = os.dup(self._directory(source[:-1]))
        try:
            status = os.lstat(source[-1], dir_fd=old)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EPERM, "a hard link to what is no file")
            new = self._directory(place[:-1])
            _make_room(new, place[-1])
            os.link(source[-1], place[-1], src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
        finally:
            os.close(old)


def _make_room(parent: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.unlink(name, dir_fd=parent)


def _settle(fd: int, member: Member) -> None:
    os.fchmod(fd, member.mode & _KEPT_MODE)
    os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
