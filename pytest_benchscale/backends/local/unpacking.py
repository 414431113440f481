"""Unpacking a root file system, in a process that cannot leave the directory it goes to."""

from __future__ import annotations

import contextlib
import errno
import os

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn


def unpack(archive: str, directory: str, *, keep_owners: bool) -> str:
    """Unpack a root file system tarball; in a process that cannot leave the directory.

    Without `keep_owners` everything is root's: the only user that an ordinary user can map.

    Raises:
        OSError: it cannot be read, is no tarball, or does not fit.
    """
    source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    os.mkdir(directory)
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _unpack_and_exit(source, directory, tell, keep_owners=keep_owners)
    os.close(tell)
    os.close(source)
    with os.fdopen(told, encoding="utf-8", errors="replace") as answers:
        trouble = answers.read()
    _, status = os.waitpid(pid, 0)
    if trouble or status:
        reason = trouble or f"the unpacking process ended with {os.waitstatus_to_exitcode(status)}"
        raise OSError(errno.EBADMSG, f"it cannot be unpacked: {reason}", archive)
    return directory


def _unpack_and_exit(source: int, directory: str, tell: int, *, keep_owners: bool) -> NoReturn:
    try:
        # Few labs need these, and they take long to import; in the jail they cannot be imported.
        import tarfile  # noqa: PLC0415

        for compression in ("gzip", "bz2", "lzma"):
            with contextlib.suppress(ImportError):
                __import__(compression)
        os.chroot(directory)
        os.chdir("/")
        try:
            with os.fdopen(source, "rb") as packed, tarfile.open(fileobj=packed) as archive:
                archive.extraction_filter = lambda member, _path: member  # the jail is enough
                for member in archive:
                    if not keep_owners:
                        member.uid = member.gid = 0
                    if not member.isdev():  # a node has a /dev of its own
                        archive.extract(member, numeric_owner=True)
        except (OSError, EOFError, tarfile.TarError) as error:
            os.write(tell, str(error).encode(errors="replace")[:4000])
        os._exit(0)
    finally:
        os._exit(1)
