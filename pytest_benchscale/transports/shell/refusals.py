"""What tools in a node say on standard error, as `OSError`."""

from __future__ import annotations

import errno
import os
import posixpath
import re

__all__ = ["refusal"]

# The C locale's texts, of glibc and where they differ of musl. A table of our own, since the node's
# system need not be this machine's.
_TEXTS = {
    "no such file or directory": errno.ENOENT,
    "not a directory": errno.ENOTDIR,
    "is a directory": errno.EISDIR,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
    "read-only file system": errno.EROFS,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "quota exceeded": errno.EDQUOT,
    "file exists": errno.EEXIST,
    "directory not empty": errno.ENOTEMPTY,
    "device or resource busy": errno.EBUSY,
    "resource busy": errno.EBUSY,
    "text file busy": errno.ETXTBSY,
    "invalid argument": errno.EINVAL,
    "file too large": errno.EFBIG,
    "file name too long": errno.ENAMETOOLONG,
    "filename too long": errno.ENAMETOOLONG,
    "too many levels of symbolic links": errno.ELOOP,
    "symbolic link loop": errno.ELOOP,
    "too many open files": errno.EMFILE,
    "no such device or address": errno.ENXIO,
    "no such device": errno.ENODEV,
    "no such process": errno.ESRCH,
    "input/output error": errno.EIO,
    "i/o error": errno.EIO,
    "operation not supported": errno.EOPNOTSUPP,
    "not supported": errno.EOPNOTSUPP,
    "cannot allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "stale file handle": errno.ESTALE,
}
# Words of shells that may mean one thing or another; believed when nothing else is said.
_VAGUE = {
    "directory nonexistent": errno.ENOENT,
    "nonexistent directory": errno.ENOENT,
    "no such file": errno.ENOENT,
}
# `tar: ENTRY: Cannot open: REASON` of GNU; `tar: can't open 'ENTRY': REASON` and others of busybox.
_ENTRY = re.compile(
    r"tar: (?:(.+): Cannot [^:]+|can't [a-z ]+'(.+)'|can't make dir (.+)|((?!can't ).+)): [^:]+"
)


def refusal(said: bytes, path: str, directory: str | None = None) -> OSError:
    """Return the error for a tool that failed at `path`.

    With `directory`, that of a tar that worked there, and named an entry when it named one.
    """
    lines = [os.fsdecode(line).strip() for line in said.splitlines() if line.strip()]
    for texts in (_TEXTS, _VAGUE):
        for line in lines:
            number = texts.get(line.rpartition(": ")[2].lower())
            if number is not None:
                return OSError(number, os.strerror(number), _entry(line, directory) or path)
    reason = next((line for line in lines if "Exiting with failure" not in line), "no reason given")
    return OSError(errno.EIO, reason, path)


def _entry(line: str, directory: str | None) -> str | None:
    match = _ENTRY.fullmatch(line)
    if directory is None or match is None:
        return None
    entry = next(group for group in match.groups() if group is not None)
    if entry.startswith("/") or entry == directory:
        return entry
    return posixpath.join(directory, entry.removeprefix("./"))
