"""How a node was when it became ready: its files then, and the way back to them.

An overlay's upper directory is all that distinguishes a node's files from its image. A checkpoint copies
it to a *sealed* layer; a reset throws the upper directory away and mounts the sealed layer beneath a new one.
What is on file systems of the node's own (/tmp, /run) is copied there and back. All of it is on
the lab's tmpfs. Standard library only, and little of it: the first process of a node uses this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from pytest_benchscale.backends.local.rootfs import Layout

_OWN_FILE_SYSTEMS = ("tmp", "run", "dev/shm")  # below a node's root
_ALWAYS_THERE = {"run": {"lock"}}  # what a new node has there, empty
# What overlayfs notes at a file to interpret its layer; other notes of its only concern the file's number.
_OVERLAY_NOTES = ("opaque", "redirect", "metacopy", "whiteout", "whiteouts", "protattr")
_CHUNK = 1 << 24

Copies = list[tuple[str, str]]
"""From where to where, directories."""


def seal_of(node: str, number: int) -> str:
    """Return the directory of a node's checkpoint."""
    return f"{node}/seal{number}"


def plan_seal(
    layout: Layout, node: str, pid: int, seal: str, etc: dict[str, str]
) -> tuple[Copies, list[int]]:
    """Return what a checkpoint has to copy, and descriptors that are to be closed after that.

    Nothing for a node that has only what it was made with.

    Raises:
        OSError: the node has ended.
    """
    copies: Copies = []
    for number, layer in enumerate(layout.layers):
        upper = f"{node}/upper{number}"
        if layer.kind != "overlay" or not os.path.isdir(upper):
            continue
        if not _is_untouched(upper, layer.target, etc):
            copies.append((upper, f"{seal}/upper{number}"))
    if not layout.is_whole:
        copies.append((f"{node}/root", f"{seal}/base"))
    opened = []
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, target in enumerate(_file_systems(layout)):
            directory = _open_below(root, target)
            if directory is None:
                continue
            opened.append(directory)
            if set(os.listdir(directory)) - _ALWAYS_THERE.get(target, set()):
                copies.append((f"/proc/self/fd/{directory}", f"{seal}/own{number}"))
    finally:
        os.close(root)
    return copies, opened


def copy_all(seal: str, copies: Copies) -> None:
    """Carry out what `plan_seal` has found."""
    os.mkdir(seal)
    for source, target in copies:
        copy_tree(source, target)


def discard_changes(layout: Layout, node: str, seal: str) -> None:
    """Throw away what a node has changed; it does not run.

    What the node has in its root where that is not one overlay is put back at once.
    """
    for name in os.listdir(node):
        if name.startswith(("upper", "work")):
            remove_tree(f"{node}/{name}")
    if not layout.is_whole:
        remove_tree(f"{node}/root")
        copy_tree(f"{seal}/base", f"{node}/root")


def put_back(layout: Layout, seal: str, root: str) -> None:
    """Fill a new node's own file systems, mounted at `root`, with what was there at its checkpoint."""
    for number, target in enumerate(_file_systems(layout)):
        if os.path.isdir(f"{seal}/own{number}"):
            copy_tree(f"{seal}/own{number}", f"{root}/{target}")


def copy_tree(source: str, target: str) -> None:
    """Copy a directory into another, which is made if need be: everything that `cp -a` keeps.

    Sockets are left out, since nobody listens to a copy; so is what is mounted there.
    """
    status = os.stat(source)
    os.makedirs(target, exist_ok=True)
    _copy_entries(source, target, status.st_dev, {})
    _copy_attributes(source, target, status, follow=True)


def remove_tree(path: str) -> None:
    """Remove a directory with everything in it."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)


def _file_systems(layout: Layout) -> list[str]:
    layers = [layer.target for layer in layout.layers if layer.kind == "tmpfs"]
    return [*_OWN_FILE_SYSTEMS, *layers]


def _open_below(root: int, path: str) -> int | None:
    """Open a directory of a node, through no symlink: it would lead into the machine's own root."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.dup(root)
    try:
        for name in path.split("/"):
            there = os.open(name, flags, dir_fd=here)
            os.close(here)
            here = there
    except OSError as error:
        os.close(here)
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return here


def _is_untouched(upper: str, target: str, etc: dict[str, str]) -> bool:
    """Return whether a layer has nothing but the files that it was made with."""
    names = os.listdir(upper)
    if target == "etc":
        return _has_only(upper, etc)
    if not names:
        return True
    return target == "" and names == ["etc"] and _has_only(f"{upper}/etc", etc)


def _has_only(directory: str, files: dict[str, str]) -> bool:
    if os.path.islink(directory) or not os.path.isdir(directory):
        return False
    if set(os.listdir(directory)) != set(files):
        return False
    for name, content in files.items():
        path = f"{directory}/{name}"
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != 0o644:
            return False
        with open(path, "rb") as file:
            if file.read() != content.encode():
                return False
    return True


def _copy_entries(source: str, target: str, device: int, linked: dict[int, str]) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if status.st_dev == device and not stat.S_ISSOCK(status.st_mode):
                _copy_entry(entry.path, f"{target}/{entry.name}", status, linked)


def _copy_entry(source: str, target: str, status: os.stat_result, linked: dict[int, str]) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        if not os.path.isdir(target):
            os.mkdir(target)
        _copy_entries(source, target, status.st_dev, linked)
        _copy_attributes(source, target, status)
        return
    if status.st_nlink > 1 and status.st_ino in linked:
        os.link(linked[status.st_ino], target, follow_symlinks=False)
        return
    linked[status.st_ino] = target
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    elif kind == stat.S_IFREG:
        _copy_content(source, target, status.st_size)
    else:
        try:
            os.mknod(target, status.st_mode, status.st_rdev)  # also a whiteout: device 0/0
        except PermissionError:
            return  # a device that only the machine's root could make
    _copy_attributes(source, target, status)


def _copy_content(source: str, target: str, size: int) -> None:
    """Copy a file; its holes stay holes, since they would take memory."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(writing, size)
            _copy_data(reading, writing, size)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_data(reading: int, writing: int, size: int) -> None:
    place = 0
    while place < size:
        try:
            place = os.lseek(reading, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(size, os.lseek(reading, place, os.SEEK_HOLE))
        os.lseek(writing, place, os.SEEK_SET)
        while place < end:
            sent = os.sendfile(writing, reading, place, min(end - place, _CHUNK))
            if sent == 0:
                return  # it became shorter meanwhile
            place += sent


def _copy_attributes(
    source: str, target: str, status: os.stat_result, *, follow: bool = False
) -> None:
    # In this order: a change of owner clears set-user-ID bits and file capabilities.
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    with contextlib.suppress(OSError):  # a file system without any
        for name in os.listxattr(source, follow_symlinks=follow):
            _copy_note(source, target, name, follow=follow)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(target, ns=times, follow_symlinks=follow)


def _copy_note(source: str, target: str, name: str, *, follow: bool) -> None:
    _, of_overlay, note = name.partition(".overlay.")
    if of_overlay and note not in _OVERLAY_NOTES:
        return
    try:
        value = os.getxattr(source, name, follow_symlinks=follow)
        os.setxattr(target, name, value, follow_symlinks=follow)
    except OSError as error:
        # Those that are not ours to set, such as a security module's, come with the place.
        if of_overlay or error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENODATA):
            raise
