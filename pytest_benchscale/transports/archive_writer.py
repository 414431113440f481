"""Files and trees as a stream of tar that GNU tar, busybox and container daemons read.

Modes and times, in whole seconds, are kept; owners are what they are told to be. Format: GNU tar manual,
"Basic Tar Format"; long names as GNU has them, since busybox knows no others. Everything here blocks:
call it in a worker thread.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CHUNK", "pack", "pack_bytes"]

CHUNK = 1 << 18
"""Bytes handed over at once: enough to make the hop between threads cheap, little in memory."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# Mode, owner, group, size and time in octal digits, which the standard library writes too, but slowly.
_NUMBERS = b"%07o\0%07o\0%07o\0%011o\0%011o\0"
_MOST_OWNER, _MOST = 8**7, 8**11
_AFTER = bytes(_BLOCK - 265)  # what follows the magic

Narrow = list[tuple[str, int]]


def pack(
    source: Path,
    name: str,
    *,
    narrow: Narrow | None = None,
    owner: tuple[int, int] = (0, 0),
) -> Iterator[bytes]:
    """Yield a file or a tree as a tar stream whose first entry is `name`.

    A symlink is packed as such. A file that grows meanwhile is packed as long as it was. `narrow` gets
    the names and modes of directories that their owner may not fill, the deepest first. `owner` is
    a user's and a group's number.

    Raises:
        OSError: something cannot be read, is a socket or a device, or shrank; with its path.
    """
    pending = bytearray()
    packer = _Packer(owner, [] if narrow is None else narrow)
    for part in packer.parts(os.fspath(source), name):
        pending += part
        if len(pending) >= CHUNK:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending + _END)


def pack_bytes(
    data: bytes, name: str, mode: int, mtime: int, *, owner: tuple[int, int] = (0, 0)
) -> bytes:
    """Return a tar stream of one file."""
    header = _Packer(owner, []).header(name, tarfile.REGTYPE, mode, mtime, size=len(data))
    return header + data + bytes(-len(data) % _BLOCK) + _END


class _Packer:
    """What makes the parts of a stream: headers, contents and what fills their last blocks."""

    def __init__(self, owner: tuple[int, int], narrow: Narrow) -> None:
        self._owner = owner
        self._owner_fits = all(0 <= number < _MOST_OWNER for number in owner)
        self._narrow = narrow

    def parts(self, source: str, name: str) -> Iterator[bytes]:
        """Yield the entries of a tree.

        A directory comes twice, before and after what is in it: not every tar keeps a directory's time,
        or fills one that is read-only, when it comes just once.
        """
        todo: list[tuple[str, str, os.stat_result | None]] = [(source, name, None)]
        while todo:
            path, member, left = todo.pop()
            status = left or os.lstat(path)
            mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns // 10**9
            kind = stat.S_IFMT(status.st_mode)
            if left is not None:
                if mode & stat.S_IRWXU != stat.S_IRWXU:
                    self._narrow.append((member, mode))
                yield self.header(member, tarfile.DIRTYPE, mode, mtime)
            elif kind == stat.S_IFDIR:
                yield self.header(member, tarfile.DIRTYPE, mode | stat.S_IRWXU, mtime)
                todo.append((path, member, status))
                children = sorted(os.listdir(path), reverse=True)  # noqa: PTH208 - text, not objects
                todo += [(f"{path}/{child}", f"{member}/{child}", None) for child in children]
            elif kind == stat.S_IFREG:
                yield from self._file_parts(path, member)
            elif kind == stat.S_IFLNK:
                target = os.readlink(path)  # noqa: PTH115
                yield self.header(member, tarfile.SYMTYPE, mode, mtime, link=target)
            elif kind == stat.S_IFIFO:
                yield self.header(member, tarfile.FIFOTYPE, mode, mtime)
            else:
                raise OSError(errno.EOPNOTSUPP, "sockets and devices cannot be copied", path)

    def _file_parts(self, path: str, name: str) -> Iterator[bytes]:
        file = os.open(path, _READ)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EAGAIN, "it was replaced while it was read", path)
            start = _read(file, CHUNK, path)
            size = status.st_size
            if len(start) < CHUNK:
                size = len(start)  # all there is, whatever it claimed: files of /proc claim nothing
            elif not size:
                start += _read(file, sys.maxsize, path)
                size = len(start)
            mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns // 10**9
            yield self.header(name, tarfile.REGTYPE, mode, mtime, size=size)
            yield start[:size]
            left = size - len(start)
            while left > 0:
                data = _read(file, min(left, CHUNK), path)
                if not data:
                    raise OSError(errno.EIO, "it became shorter while it was read", path)
                left -= len(data)
                yield data
            yield bytes(-size % _BLOCK)
        finally:
            os.close(file)

    def header(
        self, name: str, kind: bytes, mode: int, mtime: int, *, size: int = 0, link: str = ""
    ) -> bytes:
        """Return the header of one entry."""
        encoded, target = os.fsencode(name), os.fsencode(link)
        if kind == tarfile.DIRTYPE:
            encoded += b"/"
        numbers = (mode, *self._owner, size, mtime)
        fits = self._owner_fits and 0 <= size < _MOST and 0 <= mtime < _MOST
        if not fits or max(len(encoded), len(target)) > 100:
            return self._long_header(name, kind, numbers, link)
        start = encoded + b"\0" * (100 - len(encoded)) + _NUMBERS % numbers
        rest = kind + target + b"\0" * (100 - len(target)) + tarfile.GNU_MAGIC
        checksum = sum(start) + 8 * 32 + sum(rest)
        return b"%b%06o\0 %b%b" % (start, checksum, rest, _AFTER)

    def _long_header(self, name: str, kind: bytes, numbers: tuple[int, ...], link: str) -> bytes:
        """Return the header of an entry that needs more than one block, or another notation."""
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid, info.size, info.mtime = numbers
        info.type, info.linkname = kind, link
        return info.tobuf(tarfile.GNU_FORMAT, sys.getfilesystemencoding(), "surrogateescape")


def _read(file: int, count: int, path: str) -> bytes:
    """Return so many bytes, fewer only at the end of the file."""
    pieces = []
    try:
        while count and (piece := os.read(file, min(count, CHUNK))):
            pieces.append(piece)
            count -= len(piece)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    return b"".join(pieces)
