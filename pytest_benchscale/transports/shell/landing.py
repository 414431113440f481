"""Where on this machine something from a node goes, and where in the node something is."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path

from pytest_benchscale.transports.archive import pack_bytes, unpack
from pytest_benchscale.transports.namespace.files import split

__all__ = ["Landing", "split_remote"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def split_remote(path: str) -> tuple[str, str]:
    """Return the directory and the name of what a path in a node names; `.` for a directory itself."""
    directory, name = posixpath.split(path.rstrip("/") or "/")
    if name in {"", ".", ".."}:
        return path, "."
    return directory or ".", name


class Landing:
    """The target of a copy, by the rules of `cp -a`: an open directory, and a name in it. Blocks."""

    def __init__(self, local: Path, name: str) -> None:
        """Raises: OSError, when the directory is not there."""
        text = os.fspath(local)
        self._directory, self._name = (text, name) if local.is_dir() else split(text)
        self._fd = os.open(self._directory, _DIRECTORY)

    def unpack(self, chunks: Iterable[bytes]) -> None:
        """Write what a tar stream holds; raises OSError with the whole path."""
        try:
            unpack(chunks, self._fd, self._name)
        except OSError as error:
            if not error.filename:
                raise
            path = Path(self._directory, error.filename)
            raise OSError(error.errno, error.strerror, str(path)) from error

    def file_size(self) -> int | None:
        """Return the size of what was written, None when it is no file."""
        try:
            status = os.lstat(self._name, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def replace(self, content: bytes) -> None:
        """Give the file that was written another content."""
        status = os.lstat(self._name, dir_fd=self._fd)
        mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns // 10**9
        self.unpack([pack_bytes(content, self._name, mode, mtime)])

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)
