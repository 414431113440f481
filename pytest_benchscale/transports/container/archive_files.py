"""Files in and out of a container through its daemon's archive API: needs nothing in the image.

Docker looks at a container's files from outside: it sees volumes, but nothing else that is mounted in
the container, and would silently write beneath a tmpfs; that is refused here. Podman looks from inside,
and takes paths for patterns. Format: Docker Engine API, "Archive"; modes are those of Go's `io/fs`.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import posixpath
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pytest_benchscale.transports.archive import CHUNK, pack, pack_bytes, read_file
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.shell.landing import Landing, split_remote
from pytest_benchscale.transports.shell.refusals import refusal

__all__ = ["ArchiveFiles"]

T = TypeVar("T")

_DIRECTORY, _SYMLINK, _SOCKET = 1 << 31, 1 << 27, 1 << 24  # Go's bits
_ALPHABET = str.maketrans("-_", "+/")  # Podman writes the one for URLs, Docker the usual
_NEVER_SEEN = ("/proc", "/sys", "/dev")
_WORDS = (
    ("marked read-only", errno.EROFS),
    ("cannot overwrite non-directory", errno.EEXIST),
    ("cannot overwrite directory", errno.EISDIR),
    ("is not a directory", errno.ENOTDIR),
    ("could not find the file", errno.ENOENT),
)


@dataclass(frozen=True, slots=True)
class _Status:
    """What a daemon says of a path."""

    mode: int
    target: str  # where a symlink leads in the end

    @property
    def is_directory(self) -> bool:
        return bool(self.mode & _DIRECTORY)

    @property
    def is_symlink(self) -> bool:
        return bool(self.mode & _SYMLINK)

    @classmethod
    def of(cls, response: Any) -> _Status | None:
        """Read a response's header."""
        header = response.headers.get("X-Docker-Container-Path-Stat")
        if not header:
            return None
        fields = json.loads(base64.b64decode(header.translate(_ALPHABET)))
        return cls(int(fields["mode"]), str(fields.get("linkTarget") or ""))


class _Stopped(Exception):
    """Whoever wanted a copy was cancelled."""


class ArchiveFiles:
    """File operations of a transport, done by the container's daemon.

    All raise `OSError` with the errno and path as far as the daemon tells them, `ApiError` when it has no
    such container, and `BackendUnavailable`.
    """

    def __init__(self, api: DaemonApi, container: str) -> None:
        self._api = api
        self._container = container
        self._hidden: tuple[str, ...] | None = None  # None: the daemon's ways are not known yet
        self._takes_patterns = False
        self._owner: tuple[int, int] | None = None

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree into the node."""
        source = Path(os.path.abspath(local))  # noqa: ASYNC240, PTH100 - no I/O
        await self._call(lambda stop: self._put(source, remote, stop))

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree out of the node."""
        await self._call(lambda stop: self._get(remote, local, stop))

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file."""
        return await self._call(lambda stop: self._read(remote, stop))

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file."""
        await self._call(lambda stop: self._write(remote, data, mode, stop))

    async def deliver(self, source: Path, directory: str, name: str) -> bool:
        """Copy a file into a directory that the daemon is known to see; no symlink is in its path.

        Returns whether the daemon knew the container; a command will tell why not.
        """

        def work(stop: threading.Event) -> None:
            chunks = pack(source, name, owner=self._user())
            self._deliver(directory, chunks, posixpath.join(directory, name), stop)

        try:
            await self._call(work)
        except ApiError:
            return False
        return True

    # --- in a worker thread ---

    def _put(self, source: Path, remote: str, stop: threading.Event) -> None:
        is_directory = stat.S_ISDIR(source.lstat().st_mode)
        found = self._resolved(remote)
        if found is not None and found[1].is_directory:
            directory, name = found[0], source.name or "."
        elif remote.endswith("/"):
            raise _error(errno.ENOENT if found is None else errno.ENOTDIR, remote)
        else:
            directory, name = posixpath.dirname(remote) or "/", posixpath.basename(remote)
        path = posixpath.join(directory, name)
        there = self._status(path)
        if there is not None and there.is_directory != is_directory:
            raise _error(errno.EEXIST if is_directory else errno.EISDIR, path)
        self._send(directory, pack(source, name, owner=self._user()), path, stop)

    def _get(self, remote: str, local: Path, stop: threading.Event) -> None:
        _, name = split_remote(remote)
        path = remote.rstrip("/") or "/"
        if name == "." or path != remote:  # what a symlink leads to, not the link
            path = self._require(posixpath.normpath(path))[0]
        landing = Landing(local, name)
        try:
            with self._received(path, remote) as chunks:
                landing.unpack(_until(stop, chunks))
        finally:
            landing.close()

    def _read(self, remote: str, stop: threading.Event) -> bytes:
        path, status = self._require(remote)
        if status.is_directory:
            raise _error(errno.EISDIR, remote)
        with self._received(path, remote) as chunks:
            return read_file(_until(stop, chunks))

    def _write(self, remote: str, data: bytes, mode: int | None, stop: threading.Event) -> None:
        found = self._resolved(remote)
        path, kept = remote, 0o644
        if found is not None:
            path, status = found
            if status.is_directory:
                raise _error(errno.EISDIR, remote)
            kept = status.mode & 0o777
        directory, name = posixpath.split(path)
        kept = kept if mode is None else mode
        content = pack_bytes(data, name, kept, int(time.time()), owner=self._user())
        self._send(directory or "/", iter([content]), remote, stop)

    def _user(self) -> tuple[int, int]:
        """Return the numbers of the container's own user and group, who gets what goes in.

        The daemon's own way, `copyUIDGID`, looks a name up among the users of its own machine.
        """
        if self._owner is None:
            config = self._api.client.inspect_container(self._container)["Config"]
            user, _, group = str(config.get("User") or "0").partition(":")
            entry = [] if user == "0" else self._entry("/etc/passwd", user)
            uid = int(entry[2] if entry else user)
            if group and not group.isdecimal():
                group = self._entry("/etc/group", group)[2]
            self._owner = uid, int(group or (entry[3] if entry else 0))
        return self._owner

    def _entry(self, table: str, key: str) -> list[str]:
        """Return the line of a user or group, by name or number; empty for a number without one."""
        try:
            lines = self._read(table, threading.Event()).decode(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        entries = [line.split(":") for line in lines if line.count(":") >= 3]
        for column in (0, 2):
            for entry in entries:
                if entry[column] == key:
                    return entry
        if not key.isdecimal():
            raise OSError(errno.EINVAL, f"the image runs as {key!r}, which it does not know", table)
        return []

    # --- requests ---

    def _status(self, path: str) -> _Status | None:
        """Return what is at a path, None when there is nothing."""
        response = self._ask("head", path)
        if response.status_code == 200:
            return _Status.of(response)
        # The answer to HEAD has no text that would say what is wrong.
        with self._ask("get", path, stream=True) as response:
            if response.status_code == 200:
                return _Status.of(response)
            error = self._refusal(response, path)
        if error.errno == errno.ENOENT:
            return None
        raise error

    def _resolved(self, path: str) -> tuple[str, _Status] | None:
        """Return where a path leads, symlinks followed, and what is there; None: nothing."""
        status = self._status(path)
        if status is not None and status.is_symlink:
            path = status.target
            status = self._status(path)
        return None if status is None else (path, status)

    def _require(self, path: str) -> tuple[str, _Status]:
        found = self._resolved(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        return found

    def _send(
        self, directory: str, chunks: Iterator[bytes], path: str, stop: threading.Event
    ) -> None:
        """Have the daemon unpack a tar stream into a directory; `path` is named in errors."""
        found = self._resolved(directory)  # Podman would make it
        if found is None or not found[1].is_directory:
            raise _error(errno.ENOENT if found is None else errno.ENOTDIR, path)
        self._deliver(found[0], chunks, path, stop)

    def _deliver(
        self, directory: str, chunks: Iterator[bytes], path: str, stop: threading.Event
    ) -> None:
        content = _Watched(_until(stop, chunks))
        try:
            response = self._request(
                "put", directory, data=iter(content), params={"noOverwriteDirNonDir": "true"}
            )
        except Exception as error:
            if content.failure is not None:  # the library would blame the connection
                raise content.failure from error
            raise
        if response.status_code != 200:
            raise self._refusal(response, path)

    @contextmanager
    def _received(self, path: str, remote: str) -> Iterator[Iterable[bytes]]:
        """Ask the daemon for a tar stream of what is at a path; `remote` is named in errors."""
        with self._ask("get", path, stream=True) as response:
            if response.status_code != 200:
                raise self._refusal(response, remote)
            status = _Status.of(response)
            if status is None or status.mode & _SOCKET:
                raise OSError(errno.EOPNOTSUPP, "sockets and devices cannot be copied", remote)
            try:
                yield response.iter_content(CHUNK)
            except OSError as error:
                if error.errno is None or error.filename:
                    raise
                raise OSError(error.errno, error.strerror, remote) from error

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """Ask for a path itself, where the daemon would take it for a pattern."""
        self._require_visible(path)
        if self._takes_patterns:
            path = re.sub(r"([\\?\[])", r"\\\1", path).replace("*", "[*]")
        return self._request(method, path, **options)

    def _request(
        self, method: str, path: str, *, params: dict[str, str] | None = None, **options: Any
    ) -> Any:
        client = self._api.client
        return client.request(
            method,
            f"{client.base_url}/v{client.api_version}/containers/{self._container}/archive",
            params={"path": os.fsencode(path), **(params or {})},
            headers={"Accept-Encoding": "identity"},
            timeout=client.timeout,
            **options,
        )

    def _refusal(self, response: Any, path: str) -> OSError:
        try:
            text = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            text = str(response.text or response.reason)
        lowered = text.lower()
        if response.status_code == 404 and re.search("(such|no) container ", lowered):
            raise ApiError(response.status_code, text)
        for words, number in _WORDS:
            if words in lowered:
                return _error(number, path)
        return refusal(text.encode(errors="surrogateescape"), path)

    def _require_visible(self, path: str) -> None:
        if self._hidden is None:
            self._takes_patterns = self._request("head", "/proc/version").status_code == 200
            self._hidden = () if self._takes_patterns else self._find_hidden()
        normal = posixpath.normpath(posixpath.join("/", path))
        for place in self._hidden:
            if normal == place or normal.startswith(f"{place}/"):
                raise OSError(
                    errno.EOPNOTSUPP,
                    f"the daemon does not see what is mounted at {place}, and the image has no shell "
                    "with tar and cat",
                    path,
                )

    def _find_hidden(self) -> tuple[str, ...]:
        """Return the places whose content a daemon does not see that looks from outside."""
        state = self._api.client.inspect_container(self._container)
        mounts = state["HostConfig"].get("Tmpfs") or {}
        more = [one["Destination"] for one in state.get("Mounts") or () if one["Type"] == "tmpfs"]
        return (*_NEVER_SEEN, *map(posixpath.normpath, [*mounts, *more]))

    async def _call(self, work: Callable[[threading.Event], T]) -> T:
        """Do something in a worker thread, which ends soon after its caller was cancelled."""
        stop = threading.Event()
        try:
            return await self._api.call(work, stop)
        finally:
            stop.set()


class _Watched:
    """An iterable that remembers what went wrong in it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except (OSError, _Stopped) as error:
            self.failure = error
            raise


def _until(stop: threading.Event, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if stop.is_set():
            raise _Stopped
        yield chunk


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
