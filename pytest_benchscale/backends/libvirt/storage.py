"""Disks as volumes of a storage pool of the daemon's, so that it may be on another machine.

An image is uploaded once and stays in the pool, under the hash of its content: the base of the disks of all
labs. What a lab writes is in volumes of its own. Who uploads holds a lock of this machine's user; a volume
beside the base says that it is complete.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import libvirt

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import GONE, told
from pytest_benchscale.backends.libvirt.images import Image

__all__ = ["Base", "Storage", "locked"]

_POOL = "default"
_OWN_POOL = "benchscale"
_OWN_DIRECTORY = "/var/lib/libvirt/images/benchscale"
_CHUNK = 1 << 20


class Base(NamedTuple):
    """An image in the pool."""

    path: str
    format: str


class Storage:
    """The pool, and what a lab has in it."""

    def __init__(self, connection: Connection, name: str, directory: str) -> None:
        self._connection = connection
        self._name = name
        self.directory = directory
        """Where the pool's files are, on the daemon's machine."""

    @classmethod
    async def open(cls, connection: Connection) -> Storage:
        """Use the pool `default` where there is one and it runs; else one of our own.

        Raises:
            LabError: there is none, and none can be made.
        """
        with told("there is no storage pool for disks", "storage"):
            name, directory = await connection.call(_find_pool, connection)
        return cls(connection, name, directory)

    async def base(self, image: Image, locks: Path, progress: Progress | None) -> Base:
        """Return an image as it is in the pool, uploaded when it is not.

        Raises:
            LabError: that failed.
        """
        with told(f"the image {image.path} cannot be brought into the storage pool", "image"):
            return await self._connection.call(self._provide_base, image, locks, _telling(progress))

    async def overlay(self, name: str, base: Base, size: int, node: str) -> str:
        """Create a disk of `size` bytes that begins as its base; return its path."""
        with told(f"the disk of node {node!r} cannot be made", "disk", node):
            return await self._connection.call(self._create, name, "qcow2", size, base)

    async def write(self, name: str, content: bytes, node: str, what: str) -> str:
        """Create a volume with this content, for errors named `what` of a node; return its path."""
        with told(f"the {what} of node {node!r} cannot be made", what, node):
            return await self._connection.call(self._write, name, content)

    async def read(self, path: str) -> bytes:
        """Return the content of a file of the pool's, however it came there; none where there is none.

        Raises:
            libvirt.libvirtError: it cannot be read.
        """
        return await self._connection.call(self._read, path)

    async def delete(self, name: str) -> None:
        """Delete a file of the pool's, if it is there.

        Raises:
            libvirt.libvirtError: it cannot be deleted.
        """
        await self._connection.call(self.remove, name)

    async def delete_all(self, prefix: str) -> None:
        """Delete every file whose name begins so."""
        await self._connection.call(self._delete_all, prefix)

    # --- in a thread ---

    def copy(self, name: str, of: str) -> None:
        """Create a volume whose file is a copy of another one's, the snapshots in it included.

        Raises:
            libvirt.libvirtError: that is not possible; nothing of it stays.
        """
        origin = self._pool.storageVolLookupByName(of)
        volume = self._pool.createXML(_volume_xml(name, "raw", 0), 0)
        source, sink = (self._connection.raw.newStream(0) for _ in range(2))
        try:
            origin.download(source, 0, 0, 0)
            volume.upload(sink, 0, 0, 0)
            while piece := source.recv(_CHUNK):
                _send_all(sink, piece)
            source.finish()
            sink.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):  # what failed is told
                volume.delete(0)
            raise

    def bytes_of(self, name: str) -> int | None:
        """Return how much room a volume takes, None when it is not there.

        Raises:
            libvirt.libvirtError: the daemon does not say.
        """
        try:
            _, _, allocation = self._pool.storageVolLookupByName(name).info()
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise
        return int(allocation)

    def remove(self, name: str) -> None:
        """Delete a file of the pool's, if it is there.

        Raises:
            libvirt.libvirtError: it cannot be deleted.
        """
        try:
            self._pool.storageVolLookupByName(name).delete(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:
                raise

    @property
    def _pool(self) -> Any:
        """The pool, by the connection as it is now: a daemon that was away has another one."""
        return self._connection.raw.storagePoolLookupByName(self._name)

    def _provide_base(self, image: Image, locks: Path, tell: Progress) -> Base:
        name = f"benchscale-base-{image.sha256[:32]}"
        base = Base(f"{self.directory}/{name}", image.format)
        with locked(locks / f"{name}.lock"):
            known = set(self.names())
            if {name, f"{name}.complete"} <= known:
                return base
            for left in {name, f"{name}.complete"} & known:  # an upload that was cut short
                self.remove(left)
            tell(f"bringing {image.path.name} into the storage pool")
            volume = self._pool.createXML(_volume_xml(name, image.format, image.virtual_size), 0)
            stream = self._connection.raw.newStream(0)
            volume.upload(stream, 0, image.size, 0)
            with image.path.open("rb") as file:
                _send(stream, file)
            self._create(f"{name}.complete", "raw", 0, None)
        return base

    def _create(self, name: str, kind: str, size: int, base: Base | None) -> str:
        volume = self._pool.createXML(_volume_xml(name, kind, size, base), 0)
        return str(volume.path())

    def _write(self, name: str, content: bytes) -> str:
        volume = self._pool.createXML(_volume_xml(name, "raw", len(content)), 0)
        stream = self._connection.raw.newStream(0)
        volume.upload(stream, 0, len(content), 0)
        for start in range(0, len(content), _CHUNK):
            _send_all(stream, content[start : start + _CHUNK])
        stream.finish()
        return str(volume.path())

    def _read(self, path: str) -> bytes:
        with suppress(OSError):  # on another machine, or not ours to read
            if self._connection.is_local:
                return Path(path).read_bytes()
        try:
            return self._download(path, 0, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return b""
            raise

    def piece(self, path: str, offset: int, size: int) -> bytes:
        """Return so many bytes of a file of the pool's from a place on, in a thread; -1: all of them.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        try:
            return self._download(path, offset, max(0, size))
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                raise FileNotFoundError(path) from error
            raise OSError(error.get_error_message() or str(error)) from error

    def _download(self, path: str, offset: int, size: int) -> bytes:
        """Return a piece of a file; of the size 0 when it goes to the end."""
        volume = self._pool.storageVolLookupByName(path.rpartition("/")[2])
        stream = self._connection.raw.newStream(0)
        volume.download(stream, offset, size, 0)
        pieces = []
        while piece := stream.recv(_CHUNK):
            pieces.append(piece)
        stream.finish()
        return b"".join(pieces)

    def _delete_all(self, prefix: str) -> None:
        for name in self.names():
            if name.startswith(prefix):
                self.remove(name)

    def names(self) -> list[str]:
        """Return the names of all volumes of the pool."""
        # Not `listVolumes`, which asks for the number first and leaves out what was added since.
        return [str(volume.name()) for volume in self._pool.listAllVolumes()]


def _find_pool(connection: Connection) -> tuple[str, str]:
    for name in (_POOL, _OWN_POOL):
        try:
            pool = connection.raw.storagePoolLookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:
                raise
            continue
        root = fromstring(pool.XMLDesc(0))  # noqa: S314  the daemon's own words
        if pool.isActive() and root.get("type") == "dir":
            return name, root.findtext("target/path", "")
    pool = _make_pool(connection)
    return _OWN_POOL, fromstring(pool.XMLDesc(0)).findtext("target/path", "")  # noqa: S314  as above


def _make_pool(connection: Connection) -> Any:
    """Make a pool that lasts as long as the daemon runs; its directory stays, with the bases in it."""
    root = Element("pool", {"type": "dir"})
    SubElement(root, "name").text = _OWN_POOL
    directory = _OWN_DIRECTORY
    if connection.raw.getURI().partition("?")[0].endswith("/session"):
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
        directory = f"{data}/libvirt/images/benchscale"
    SubElement(SubElement(root, "target"), "path").text = directory
    xml = tostring(root, encoding="unicode")
    try:
        return connection.raw.storagePoolCreateXML(xml, libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
    except libvirt.libvirtError:
        with suppress(libvirt.libvirtError):  # another lab made it at this moment
            return connection.raw.storagePoolLookupByName(_OWN_POOL)
        raise


def _volume_xml(name: str, kind: str, size: int, base: Base | None = None) -> str:
    root = Element("volume")
    SubElement(root, "name").text = name
    SubElement(root, "capacity").text = str(size)
    SubElement(root, "allocation").text = "0"
    target = SubElement(root, "target")
    SubElement(target, "format", {"type": kind})
    if base is not None:
        backing = SubElement(root, "backingStore")
        SubElement(backing, "path").text = base.path
        SubElement(backing, "format", {"type": base.format})
    return tostring(root, encoding="unicode")


def _send(stream: Any, file: Any) -> None:
    try:
        while piece := file.read(_CHUNK):
            _send_all(stream, piece)
    except BaseException:
        stream.abort()
        raise
    stream.finish()


def _send_all(stream: Any, data: bytes) -> None:
    while data:
        data = data[stream.send(data) :]


def _telling(progress: Progress | None) -> Progress:
    """Return what tells of progress from another thread."""
    loop = asyncio.get_running_loop()
    return lambda line: None if progress is None else _tell(loop, progress, line)


def _tell(loop: asyncio.AbstractEventLoop, progress: Progress, line: str) -> None:
    loop.call_soon_threadsafe(progress, line)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock of this machine's user; a shared one does not keep others like it out.

    Raises:
        BlockingIOError: somebody else has it, and we are not to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        yield
