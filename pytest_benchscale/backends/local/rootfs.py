"""A node's view of a root directory: read through to it, write to a layer of the node's own.

The best shape is one overlay over the whole root. The kernel refuses it in a user namespace when
other file systems are mounted beneath (they are locked together with it); then each top-level
directory gets an overlay, a directory that has a mount beneath it is taken apart one level down, and
what still refuses is shown read-only. What fits is found out once a lab, by trying (`survey`), and
then mounted for each node (`mount_layers`).

Everything here runs in the lab's own mount namespace. The layers are directories on the lab's tmpfs,
so they vanish with it.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_benchscale.transports.namespace.linux import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    umount,
)

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence

# Every node gets its own of these, whatever the root directory holds there.
OWN_DIRECTORIES = frozenset({"proc", "sys", "dev", "run", "tmp"})
# Empty in a node when no overlay can be had, since programs write there.
_WRITABLE = ("root", "home", "srv", "mnt", "var/tmp", "var/log", "var/cache")
_MAX_DEPTH = 3
# Directories in which an ordinary user's nodes can create files: to this depth, and so many.
_MIRRORED_DEEPLY = ("etc", "var", "srv", "usr/local")
_DEEP, _SHALLOW = 4, 2
_MAX_MIRRORED = 4000
_MAX_COPIED_BYTES = 1 << 20
_REFUSALS = frozenset({errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENODEV, errno.EOPNOTSUPP})


class Layer:
    """One mount of a node's root. `target` is relative to it; empty: the root itself."""

    def __init__(self, kind: str, lower: str, target: str) -> None:
        self.kind = kind  # "overlay", "readonly", "tmpfs", or "directory": not mounted, only made
        self.lower = (
            lower  # of an overlay the lower directories, topmost first, as mount wants them
        )
        self.target = target

    def is_gone(self) -> bool:
        """Whether this was beneath the root and has been removed since, as a container's root is."""
        source = _first_lower(self.lower) if self.kind == "overlay" else self.lower
        return bool(self.target and source) and not os.path.lexists(source)


class Layout:
    """How to mount one root directory for any node of the lab."""

    def __init__(self, lower: str, layers: tuple[Layer, ...], options: str) -> None:
        self.lower = lower
        self.layers = layers
        self.options = options  # further overlay options

    @property
    def is_whole(self) -> bool:
        """Whether the root is one mount, so that whatever a node changes is in layers."""
        return bool(self.layers) and self.layers[0].target == ""


def survey(lower: str, scratch: str, *, overlay: bool = True) -> Layout:
    """Find out how the root directory `lower` can be layered here.

    `scratch` is a directory on the lab's tmpfs for this image alone. With `overlay=False` the
    fallback of a kernel that refuses overlays is used.

    Raises:
        OSError: the directory cannot be read.
    """
    os.makedirs(scratch, exist_ok=True)
    os.listdir(lower)
    if not overlay:
        return Layout(lower, tuple(_read_only_layers(lower)), "")
    options = ",userxattr" if _in_user_namespace() else ""
    foreign = os.stat(lower).st_uid != 0
    if not foreign and _overlay_works([lower], scratch, options):
        whole = Layer("overlay", _escape(lower), "")
        return Layout(lower, (whole, *_submounts(lower, scratch, options)), options)
    layers = _taken_apart(lower, "", scratch, options, _Mirror(scratch, enabled=foreign))
    if not any(layer.kind == "overlay" for layer in layers):
        layers = _read_only_layers(lower)
    return Layout(lower, tuple(layers), options)


def mount_layers(
    layout: Layout,
    node: str,
    etc: dict[str, str],
    seals: Sequence[str] = (),
    *,
    based: bool = False,
) -> str:
    """Mount a node's root from its layers under the directory `node`; return the root's path.

    `etc` are files of /etc, by name, that are the node's own instead of what is there. They are put
    into the layer before it is mounted, which is several times cheaper than through the overlay. `seals`
    are directories with layers to go between, the topmost first, which have these files if they have
    the layer; with `based`, what is in no layer is there already.
    """
    root = f"{node}/root"
    seeded = based
    os.makedirs(root, exist_ok=True)
    if not layout.is_whole:
        mount(root, root, None, MS_BIND)
        if not based:
            _make_entries(layout, root)
    for number, layer in enumerate(layout.layers):
        try:
            seeded = _mount_layer(layout, number, node, etc, seals) or seeded
        except FileNotFoundError:
            if not layer.is_gone():
                raise
    if not seeded:
        os.makedirs(f"{root}/etc", exist_ok=True)
        _write_files(f"{root}/etc", etc)
    return root


def _mount_layer(
    layout: Layout, number: int, node: str, etc: dict[str, str], seals: Sequence[str]
) -> bool:
    """Mount one layer of a node's root; return whether the files of /etc are in it."""
    layer = layout.layers[number]
    target = f"{node}/root/{layer.target}" if layer.target else f"{node}/root"
    seeded = False
    if layer.kind == "overlay":
        upper, work = f"{node}/upper{number}", f"{node}/work{number}"
        sealed = [path for seal in seals if os.path.isdir(path := f"{seal}/upper{number}")]
        if not os.path.isdir(upper):
            os.mkdir(upper)
            os.mkdir(work)
            lower = sealed[0] if sealed else _first_lower(layer.lower)
            status = os.stat(lower)
            if sealed:
                os.chown(upper, status.st_uid, status.st_gid)
            os.chmod(upper, stat.S_IMODE(status.st_mode))
            seeded = not sealed and _seed(upper, lower, layer.target, etc)
        seeded = seeded or (bool(sealed) and layer.target in ("", "etc"))
        lowers = ":".join([*map(_escape, sealed), layer.lower])
        _mount_overlay(lowers, upper, work, target, layout.options)
    elif layer.kind == "readonly":
        bind_read_only(layer.lower, target)
    elif layer.kind == "tmpfs":
        mount("tmpfs", target, "tmpfs", MS_NODEV | MS_NOSUID, "mode=755")
    return seeded


def _seed(upper: str, lower: str, target: str, etc: dict[str, str]) -> bool:
    """Put the files of /etc into a new layer, if it is the one that holds /etc."""
    if target == "etc":
        _write_files(upper, etc)
    elif target == "" and os.path.isdir(f"{lower}/etc") and not os.path.islink(f"{lower}/etc"):
        os.mkdir(f"{upper}/etc")
        os.chmod(f"{upper}/etc", stat.S_IMODE(os.stat(f"{lower}/etc").st_mode))
        _write_files(f"{upper}/etc", etc)
    else:
        return False
    return True


def _write_files(directory: str, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = f"{directory}/{name}"
        # Not through what is there: it may be a symlink, a mount of the machine's, or not ours.
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)


def bind_read_only(source: str, target: str) -> None:
    """Show a file or directory at target, read-only."""
    mount(source, target, None, MS_BIND | MS_REC)
    # A user namespace may not clear what the original mount has set. These statvfs flags have the
    # values of their mount(2) twins.
    kept = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME)
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def _in_user_namespace() -> bool:
    """Whether this is not the machine's own user namespace, where overlays use other xattrs."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def _overlay_works(lowers: list[str], scratch: str, options: str) -> bool:
    upper, work, target = (f"{scratch}/try-{name}" for name in ("upper", "work", "target"))
    for path in (upper, work, target):
        os.makedirs(path, exist_ok=True)
    try:
        _mount_overlay(":".join(map(_escape, lowers)), upper, work, target, options)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        return False
    umount(target)
    return True


def _mount_overlay(lower: str, upper: str, work: str, target: str, options: str) -> None:
    data = f"lowerdir={lower},upperdir={_escape(upper)},workdir={_escape(work)}{options}"
    mount("overlay", target, "overlay", 0, data)


def _escape(path: str) -> str:
    # overlayfs separates directories by colons and options by commas.
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _first_lower(lowers: str) -> str:
    """Return the topmost directory of an escaped list."""
    path, escaped = "", False
    for character in lowers:
        if not escaped and character == ":":
            break
        escaped = not escaped and character == "\\"
        if not escaped:
            path += character
    return path


def _submounts(lower: str, scratch: str, options: str) -> list[Layer]:
    """Layers for the file systems that are mounted beneath a root that is one overlay."""
    layers = []
    prefix = lower.rstrip("/") + "/"
    for point in sorted(set(_mount_points())):
        if not point.startswith(prefix):
            continue
        target = point[len(prefix) :]
        if target.split("/")[0] in OWN_DIRECTORIES or not os.path.isdir(point):
            continue
        if not os.access(point, os.R_OK | os.X_OK):
            continue
        try:
            works = _overlay_works([point], scratch, options)
        except FileNotFoundError:  # unmounted and removed meanwhile
            continue
        layers.append(
            Layer("overlay", _escape(point), target) if works else Layer("readonly", point, target)
        )
    return layers


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = [line.split(" ")[4] for line in file]
    return [
        field.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
        for field in fields
    ]


def _taken_apart(
    lower: str, relative: str, scratch: str, options: str, mirror: _Mirror
) -> list[Layer]:
    """One layer for each directory in lower/relative; deeper where the kernel refuses."""
    layers: list[Layer] = []
    for name in sorted(_subdirectories(f"{lower}/{relative}")):
        target = f"{relative}/{name}".lstrip("/")
        path = f"{lower.rstrip('/')}/{target}"
        if target in OWN_DIRECTORIES:
            continue
        if not os.access(path, os.R_OK | os.X_OK):
            # What this user cannot read cannot be shown either; a writable place instead.
            layers.append(Layer("directory", "", target))
            continue
        lowers = [*mirror.of(path, target), path]
        if _overlay_works(lowers, scratch, options):
            layers.append(Layer("overlay", ":".join(map(_escape, lowers)), target))
        elif target.count("/") + 1 < _MAX_DEPTH and _has_mount_beneath(path):
            layers.append(Layer("directory", "", target))
            layers.extend(_taken_apart(lower, target, scratch, options, mirror))
        else:
            layers.append(Layer("readonly", path, target))
    return layers


def _has_mount_beneath(path: str) -> bool:
    return any(point.startswith(path.rstrip("/") + "/") for point in _mount_points())


def _read_only_layers(lower: str) -> list[Layer]:
    layers = []
    for name in sorted(_subdirectories(lower)):
        if name in OWN_DIRECTORIES:
            continue
        path = f"{lower.rstrip('/')}/{name}"
        if name in _WRITABLE or not os.access(path, os.R_OK | os.X_OK):
            layers.append(Layer("directory", "", name))
        elif name != "etc":  # which is copied, since it must hold this node's own files
            layers.append(Layer("readonly", path, name))
    nested = (target for target in _WRITABLE if "/" in target)
    layers.extend(
        Layer("tmpfs", "", target) for target in nested if os.path.isdir(f"{lower}/{target}")
    )
    return layers


def _subdirectories(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


class _Mirror:
    """Directories of our own in front of those whose owner has no id in the user namespace.

    There, not even root may create a file in /srv or /etc: the owner, the machine's root, is
    unknown. An overlay takes a directory's owner from its topmost layer, so a layer of our
    own directories with the same names makes them writable. Files keep their owner: they
    can be replaced, not changed in place. Those of /etc are few and small, so they are copied.
    """

    def __init__(self, scratch: str, *, enabled: bool) -> None:
        self._base = f"{scratch}/mirror"
        self._enabled = enabled
        self._left = _MAX_MIRRORED

    def of(self, path: str, target: str) -> list[str]:
        """Return the mirror of a directory, as a list to put before it; empty when none is needed."""
        if not self._enabled:
            return []
        mirror = f"{self._base}/{target}"
        if not os.path.isdir(mirror):
            os.makedirs(mirror)
            self._fill(path, mirror, target)
        return [mirror]

    def _fill(self, path: str, mirror: str, target: str) -> None:
        deep = target.startswith(_MIRRORED_DEEPLY)
        if target.count("/") + 1 >= (_DEEP if deep else _SHALLOW):
            return
        with os.scandir(path) as entries:
            found = [entry for entry in entries if self._is_wanted(entry, target)]
        for entry in found[: self._left]:
            self._left -= 1
            copy = f"{mirror}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
            elif entry.is_dir():
                os.mkdir(copy, 0o700 | stat.S_IMODE(entry.stat().st_mode))
                self._fill(entry.path, copy, f"{target}/{entry.name}")
            else:
                _copy_file(entry, copy)

    def _is_wanted(self, entry: os.DirEntry[str], target: str) -> bool:
        """Directories are, where they can be read; of files, those one expects to edit."""
        if entry.is_dir(follow_symlinks=False):
            return os.access(entry.path, os.R_OK | os.X_OK)
        return target.startswith("etc") and (entry.is_symlink() or _is_small_file(entry))


def _make_entries(layout: Layout, root: str) -> None:
    """Make the mount points, symlinks and small files of a root that is not one overlay."""
    covered = {layer.target for layer in layout.layers}
    parents = {""} | {
        target for target in covered if any(c.startswith(target + "/") for c in covered)
    }
    for parent in sorted(parents):
        for entry in os.scandir(f"{layout.lower}/{parent}"):
            target = f"{root}/{parent}/{entry.name}"
            if os.path.lexists(target):
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), target)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(target)
            elif _is_small_file(entry):
                _copy_file(entry, target)
    if "etc" not in covered and os.path.isdir(f"{layout.lower}/etc"):
        _copy_readable(f"{layout.lower}/etc", f"{root}/etc")


def _copy_readable(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    for entry in os.scandir(source):
        copy = f"{target}/{entry.name}"
        if os.path.lexists(copy) or not (entry.is_symlink() or os.access(entry.path, os.R_OK)):
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), copy)
        elif entry.is_dir():
            _copy_readable(entry.path, copy)
        elif _is_small_file(entry):
            _copy_file(entry, copy)


def _copy_file(entry: os.DirEntry[str], target: str) -> None:
    with open(entry.path, "rb") as source, open(target, "wb") as copy:
        copy.write(source.read())
    os.chmod(target, stat.S_IMODE(entry.stat().st_mode))


def _is_small_file(entry: os.DirEntry[str]) -> bool:
    readable = entry.is_file() and os.access(entry.path, os.R_OK)
    return readable and entry.stat().st_size <= _MAX_COPIED_BYTES
