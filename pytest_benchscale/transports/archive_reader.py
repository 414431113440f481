"""Reading the entries of a tar stream that nobody vouches for.

The standard library's reader keeps every entry it saw in memory, and extension headers of any size;
this one keeps nothing, and says no to what it does not know. Formats: POSIX.1-2017 `pax`; GNU tar manual,
"Basic Tar Format".
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Member", "bad", "members"]

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_EXTENSION = 1 << 20  # bytes of a long name or of pax records; Linux allows paths of 4 KiB
_LONGEST_PADDING = 1 << 20  # bytes after the end; tar fills records of 10 KiB
_LONGEST_TIME = 1 << 40  # seconds; more than file systems keep, less than the kernel refuses
_KINDS = {
    **dict.fromkeys((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE), stat.S_IFREG),
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_DECIMAL = re.compile(rb"(-?)(\d{1,18})(?:\.(\d*))?")


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a stream. `kind` is one of the file types of `stat`, `mode` its permission bits.

    `target` is where a link leads. `content` must be read before the next entry is.
    """

    name: str
    kind: int
    mode: int
    mtime_ns: int
    is_hard_link: bool
    target: str
    content: Iterator[memoryview]


def bad(reason: str, name: str = "") -> OSError:
    """Return the error for a stream that is not what it should be; `name` is that of the entry."""
    return OSError(errno.EBADMSG, reason, name)


def members(chunks: Iterable[bytes]) -> Iterator[Member]:
    """Yield the entries of a tar stream: files, directories, links and FIFOs; read it to its end.

    Raises:
        OSError: it is damaged, ends early, or holds something else; with the name of the entry.
    """
    stream = _Stream(chunks)
    records: dict[bytes, bytes] = {}  # what extension headers say of the next entry
    name = ""
    while any(block := stream.take(_BLOCK, name)):
        info = _parse(block, name)
        name = info.name
        if info.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
            key = b"path" if info.type == tarfile.GNUTYPE_LONGNAME else b"linkpath"
            records[key] = stream.extension(info).rstrip(b"\0")
            continue
        if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}:
            content = stream.extension(info)
            if info.type != tarfile.XGLTYPE:  # of all entries nothing can be said that matters here
                records |= _pax_records(content, name)
            continue
        member, size = _member(info, records, stream)
        name, records = member.name, {}
        yield member
        for _ in member.content:  # whatever was not read
            pass
        stream.take(-size % _BLOCK, name)
    stream.drain()


class _Stream:
    """Bytes that come in chunks of any size, taken in pieces of other sizes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def take(self, count: int, name: str) -> bytes:
        """Return so many bytes."""
        if len(self._left) >= count:
            taken, self._left = bytes(self._left[:count]), self._left[count:]
            return taken
        return b"".join(self.pieces(count, name))

    def pieces(self, count: int, name: str) -> Iterator[memoryview]:
        """Yield so many bytes as they come."""
        while count:
            if not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise bad("the archive ends too early", name)
                self._left = memoryview(chunk)
            piece, self._left = self._left[:count], self._left[count:]
            count -= len(piece)
            yield piece

    def extension(self, info: tarfile.TarInfo) -> bytes:
        """Return the content of an extension header."""
        if not 0 <= info.size <= _LONGEST_EXTENSION:
            raise bad("an extension header of the archive has an impossible size", info.name)
        content = self.take(info.size, info.name)
        self.take(-info.size % _BLOCK, info.name)
        return content

    def drain(self) -> None:
        """Read what fills the last record, so that who writes it is not cut off."""
        count = len(self._left)
        for chunk in self._chunks:
            count += len(chunk)
            if count > _LONGEST_PADDING:
                raise bad("the archive does not end where it says")


def _parse(block: bytes, previous: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, sys.getfilesystemencoding(), "surrogateescape")
    except tarfile.HeaderError as error:
        raise bad(f"the archive is damaged ({error})", previous) from error


def _member(
    info: tarfile.TarInfo, records: dict[bytes, bytes], stream: _Stream
) -> tuple[Member, int]:
    """Return an entry and the size of its content."""
    name = os.fsdecode(records[b"path"]) if b"path" in records else info.name
    target = os.fsdecode(records[b"linkpath"]) if b"linkpath" in records else info.linkname
    if "\0" in name or "\0" in target:
        raise bad("a name in the archive holds a null byte", name)
    kind = _KINDS.get(info.type)
    if kind is None or any(key.startswith(b"GNU.sparse.") for key in records):
        what = "devices" if info.type in {tarfile.CHRTYPE, tarfile.BLKTYPE} else "such entries"
        raise OSError(errno.EOPNOTSUPP, f"{what} cannot be copied", name)
    is_hard_link = info.type == tarfile.LNKTYPE
    size, mtime_ns = info.size, int(info.mtime) * 10**9
    if b"size" in records:
        size = _nanoseconds(records[b"size"], name) // 10**9
    if b"mtime" in records:
        mtime_ns = _nanoseconds(records[b"mtime"], name)
    if kind != stat.S_IFREG or is_hard_link:
        size = 0
    if size < 0 or abs(mtime_ns) > _LONGEST_TIME * 10**9:
        raise bad("an entry of the archive has an impossible size or time", name)
    mode = stat.S_IMODE(info.mode)
    content = stream.pieces(size, name)
    return Member(name, kind, mode, mtime_ns, is_hard_link, target, content), size


def _pax_records(content: bytes, name: str) -> dict[bytes, bytes]:
    """Parse records `LENGTH KEY=VALUE newline`, where LENGTH counts itself."""
    records = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not re.fullmatch(rb"\d{1,7}", length) or not len(length) + 2 < int(length) <= len(
            content
        ):
            raise bad("an extension header of the archive is damaged", name)
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, separator, value = record.partition(b"=")
        if not separator or not value.endswith(b"\n"):
            raise bad("an extension header of the archive is damaged", name)
        records[key] = value[:-1]
    return records


def _nanoseconds(text: bytes, name: str) -> int:
    """Return a decimal number times 10^9."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise bad("an extension header of the archive is damaged", name)
    sign, whole, fraction = match.groups()
    value = int(whole) * 10**9 + int((fraction or b"").ljust(9, b"0")[:9])
    return -value if sign else value
