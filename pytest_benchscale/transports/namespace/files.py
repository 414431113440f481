"""Copying files and trees between directories given as descriptors.

Every step names one entry of an open directory and follows no symlink, so a link in a node cannot
lead to the machine's files, nor the other way round. The rules for the target are those of `cp -a`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

__all__ = ["copy_entry", "split"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30


def split(path: str) -> tuple[str, str]:
    """Return the directory and the name of what a path names; the name of a root is `.`."""
    directory, name = os.path.split(path.rstrip("/") or "/")
    return directory or ".", name or "."


def copy_entry(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Copy one entry of a directory: a file, a symlink as such, or a whole directory.

    Modes and times are kept, owners are not. An existing directory is merged into, anything else
    that exists is replaced.

    Raises:
        OSError: with the name of the entry that could not be read or written.
    """
    status = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        _copy_directory(source_dir, source, target_dir, target, status)
    elif kind == stat.S_IFREG:
        _copy_file(source_dir, source, target_dir, target, status)
    elif kind == stat.S_IFLNK:
        _make_room(target_dir, target)
        os.symlink(os.readlink(source, dir_fd=source_dir), target, dir_fd=target_dir)
    elif kind == stat.S_IFIFO:
        _make_room(target_dir, target)
        os.mkfifo(target, stat.S_IMODE(status.st_mode), dir_fd=target_dir)
    else:
        raise OSError(errno.EOPNOTSUPP, "sockets and devices cannot be copied", source)


def _copy_directory(
    source_dir: int, source: str, target_dir: int, target: str, status: os.stat_result
) -> None:
    try:
        os.mkdir(target, 0o700, dir_fd=target_dir)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(target, dir_fd=target_dir, follow_symlinks=False).st_mode):
            raise
    source_fd = os.open(source, _DIRECTORY, dir_fd=source_dir)
    try:
        target_fd = os.open(target, _DIRECTORY, dir_fd=target_dir)
        try:
            for name in os.listdir(source_fd):
                copy_entry(source_fd, name, target_fd, name)
            os.fchmod(target_fd, stat.S_IMODE(status.st_mode))
            os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_file(
    source_dir: int, source: str, target_dir: int, target: str, status: os.stat_result
) -> None:
    source_fd = os.open(source, _READ, dir_fd=source_dir)
    try:
        target_fd = _open_target(target_dir, target)
        try:
            _copy_content(source_fd, target_fd, status.st_size)
            os.fchmod(target_fd, stat.S_IMODE(status.st_mode))
            os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _open_target(directory: int, name: str) -> int:
    try:
        return os.open(name, _WRITE, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    os.unlink(name, dir_fd=directory)  # a symlink is replaced, never written through
    return os.open(name, _WRITE, 0o600, dir_fd=directory)


def _copy_content(source: int, target: int, size: int) -> None:
    """Copy in the kernel; files of /proc claim no size, so read those."""
    if size:
        while os.sendfile(target, source, None, _CHUNK):
            pass
        return
    while data := os.read(source, 1 << 16):
        os.write(target, data)


def _make_room(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
