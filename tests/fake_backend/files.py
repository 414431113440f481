"""A file system in memory, as much of one as the tests of the lab need."""

from __future__ import annotations

import errno
import os
import posixpath
from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["Entry", "Files"]


@dataclass(frozen=True)
class Entry:
    """A file, a directory (`data` is None) or a symbolic link (`link` is its target)."""

    data: bytes | None = None
    link: str | None = None
    mode: int = 0o644


@dataclass
class Files:
    """Entries by absolute path. What is beneath `read_only` cannot be written."""

    entries: dict[str, Entry] = field(
        default_factory=lambda: {
            path: Entry(mode=0o755)
            for path in (
                "/",
                "/etc",
                "/proc",
                "/srv",
                "/tmp",
                "/usr",
                "/usr/local",
                "/usr/local/bin",
            )
        }
    )
    read_only: tuple[str, ...] = ("/proc",)

    def resolve(self, path: str) -> str:
        """Return the path that a path leads to, symbolic links followed, inside this tree only."""
        done, steps = "/", 0
        rest = [part for part in path.split("/") if part not in {"", "."}]
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = posixpath.dirname(done)
                continue
            step = posixpath.join(done, part)
            entry = self.entries.get(step)
            if entry is None or entry.link is None:
                done = step
                continue
            steps += 1
            if steps > 40:
                raise _error(errno.ELOOP, path)
            target = entry.link if entry.link.startswith("/") else posixpath.join(done, entry.link)
            rest = [one for one in target.split("/") if one not in {"", "."}] + rest
            done = "/"
        return done

    def get(self, path: str) -> Entry:
        entry = self.entries.get(self.resolve(path))
        if entry is None:
            raise _error(errno.ENOENT, path)
        return entry

    def exists(self, path: str) -> bool:
        return self.resolve(path) in self.entries

    def is_dir(self, path: str) -> bool:
        entry = self.entries.get(self.resolve(path))
        return entry is not None and entry.data is None

    def read(self, path: str) -> bytes:
        data = self.get(path).data
        if data is None:
            raise _error(errno.EISDIR, path)
        return data

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        place = self._place(path)
        old = self.entries.get(place)
        if old is not None and old.data is None:
            raise _error(errno.EISDIR, path)
        kept = old.mode if old else 0o644
        self.entries[place] = Entry(data, mode=kept if mode is None else mode)

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        place = self.resolve(path)
        if place in self.entries:
            if self.entries[place].data is None and parents:
                return
            raise _error(errno.EEXIST, path)
        if parents:
            self.mkdir(posixpath.dirname(place), parents=True)
        self.entries[self._place(path)] = Entry(mode=0o755)

    def chmod(self, path: str, mode: int) -> None:
        place = self.resolve(path)
        self.entries[place] = replace(self.get(path), mode=mode)

    def remove(self, path: str) -> None:
        """Remove an entry with all beneath it."""
        self.get(path)
        place = self.resolve(path)
        for one in [*self.entries]:
            if one == place or one.startswith(place.rstrip("/") + "/"):
                del self.entries[one]

    def link(self, path: str) -> str | None:
        """Return the target of a symbolic link, None for anything else."""
        entry = self.entries.get(self._entry(path))
        return entry.link if entry else None

    def symlink(self, path: str, target: str) -> None:
        self.entries[self._place(path)] = Entry(link=target, mode=0o777)

    def names(self, path: str) -> list[str]:
        place = self.resolve(path)
        if not self.is_dir(path):
            raise _error(errno.ENOTDIR if place in self.entries else errno.ENOENT, path)
        return sorted(
            posixpath.basename(one)
            for one in self.entries
            if one != "/" and posixpath.dirname(one) == place
        )

    def put(self, local: Path, remote: str) -> None:
        """Copy in, by the rules of `cp -a`."""
        target = posixpath.join(remote, local.name) if self.is_dir(remote) else remote
        self._put(local, target)

    def _put(self, local: Path, target: str) -> None:
        mode = local.lstat().st_mode & 0o7777
        if local.is_symlink():
            self.entries[self._place(target)] = Entry(link=os.readlink(local), mode=mode)
        elif local.is_dir():
            if not self.exists(target):
                self.mkdir(target)
            self.chmod(target, mode)
            for child in sorted(local.iterdir()):
                self._put(child, posixpath.join(target, child.name))
        else:
            self.write(target, local.read_bytes(), mode)

    def take(self, remote: str, local: Path) -> None:
        """Copy out, by the rules of `cp -a`."""
        place = self._entry(remote)
        if place not in self.entries:
            raise _error(errno.ENOENT, remote)
        self._take(place, local / posixpath.basename(place) if local.is_dir() else local)

    def _take(self, place: str, local: Path) -> None:
        entry = self.entries[place]
        if entry.link is not None:
            local.symlink_to(entry.link)
            return
        if entry.data is None:
            local.mkdir(exist_ok=True)
            for name in self.names(place):
                self._take(posixpath.join(place, name), local / name)
        else:
            local.write_bytes(entry.data)
        local.chmod(entry.mode)

    def _entry(self, path: str) -> str:
        """Return a path with every link resolved but the last."""
        path = path.rstrip("/")
        return posixpath.join(self.resolve(posixpath.dirname(path)), posixpath.basename(path))

    def _place(self, path: str) -> str:
        """Return where a path leads, if something can be created there."""
        place = self.resolve(path)
        parent = posixpath.dirname(place)
        if parent not in self.entries:
            raise _error(errno.ENOENT, path)
        if self.entries[parent].data is not None:
            raise _error(errno.ENOTDIR, path)
        if any(f"{place}/".startswith(f"{one}/") for one in self.read_only):
            raise _error(errno.EROFS, path)
        return place


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
