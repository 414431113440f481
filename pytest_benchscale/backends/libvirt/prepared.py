"""Guests that became ready once, kept: the next one like it does not boot but goes on from there.

A kept state is a volume in the storage pool, a copy of a guest's disk with a snapshot of the running machine
in it; and, in the cache of this machine's user, what else belongs to it: its seed, its keys, and what was on
its console. It is found by a key, in which there is everything that would make a guest another one. The
states that were not used for longest give way when there are too many.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.domain_xml import DomainSpec, domain_xml
from pytest_benchscale.backends.libvirt.failures import told
from pytest_benchscale.backends.libvirt.keys import GuestKeys
from pytest_benchscale.backends.libvirt.storage import Storage, locked

__all__ = ["PREFIX", "SNAPSHOT", "Prepared", "Shelf", "TooLarge", "key_of"]

PREFIX = "benchscale-prepared-"
"""How the names of the volumes begin."""

SNAPSHOT = "ready"
"""The snapshot's name, inside of the disk."""

_MOST_BYTES = 10 << 30  # of all states at one daemon
_LARGEST = _MOST_BYTES // 4
_SNAPSHOT_XML = f"<domainsnapshot><name>{SNAPSHOT}</name></domainsnapshot>"
_NOTE = "state.json"


class TooLarge(Exception):
    """A guest's disk and memory take so much room that its state is not kept."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a guest needs to go on, beside its disk."""

    seed: bytes
    keys: GuestKeys
    console: bytes


def key_of(spec: DomainSpec, documents: Mapping[str, bytes], **more: object) -> str:
    """Return the key of a guest: equal for guests that are equal but for names, and for nothing else.

    `spec` needs no disks, `documents` are the seed's without what is made for one lab alone; `more` is what
    neither of them tells, such as the hash of its image.
    """
    links = [link._replace(network="", tap="") for link in spec.links]
    bare = replace(spec, name="", disks=(), links=links, console="", labels={})
    parts = {
        "domain": domain_xml(bare, ""),
        "documents": {name: content.decode() for name, content in documents.items()},
        **more,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Shelf:
    """The kept states of the guests on one machine."""

    def __init__(self, connection: Connection, storage: Storage, cache: Path, machine: str) -> None:
        self._connection = connection
        self._storage = storage
        self._directory = cache / "prepared"
        self._locks = cache / "locks"
        self._machine = machine
        # Others use the same pool, from other accounts and machines, and cannot know our notes.
        owner = f"{socket.gethostname()}\0{self._directory}"
        self._ours = hashlib.sha256(owner.encode()).hexdigest()[:8]

    async def take(self, key: str, volume: str) -> Prepared | None:
        """Make a disk of a kept state, with this name, and return the rest; None when there is none.

        Raises:
            libvirt.libvirtError: the disk cannot be made.
        """
        return await self._connection.call(self._take, key, volume)

    async def keep(self, key: str, prepared: Prepared, domain: str, disk: str) -> None:
        """Keep the state in which a domain of ours is now; it stands still meanwhile.

        Raises:
            libvirt.libvirtError: that is not possible.
            OSError: the cache cannot be written.
            TooLarge: it takes too much room.
            LabError: the domain does not go on.
        """
        await self._connection.call(self._keep, key, prepared, domain, disk)

    async def forget(self, key: str) -> None:
        """Remove a state that is of no use."""
        await self._connection.call(self._forget, key)

    async def sweep(self) -> None:
        """Remove what an attempt to keep a state has left that was cut short.

        Raises:
            libvirt.libvirtError: that is not possible.
        """
        await self._connection.call(self._sweep)

    # --- in a thread ---

    def _take(self, key: str, volume: str) -> Prepared | None:
        with locked(self._lock(key), shared=True):
            note = self._note(key)
            if note is None:
                return None
            self._storage.copy(volume, note["volume"])
            place = self._directory / key
            with suppress(OSError):
                place.touch()  # it was used
            keys = GuestKeys((place / "login").read_bytes(), note["host_key"])
            return Prepared((place / "seed").read_bytes(), keys, (place / "console").read_bytes())

    def _keep(self, key: str, prepared: Prepared, domain: str, disk: str) -> None:
        with locked(self._lock(key)):
            if self._note(key) is not None:
                return  # somebody was faster
            volume = f"{PREFIX}{self._ours}-{key}"
            self._storage.remove(volume)  # of an attempt that was cut short
            self._freeze(domain, disk, volume)
            try:
                self._write(key, prepared, volume)
            except BaseException:
                self._storage.remove(volume)
                raise
        self._make_room()

    def _freeze(self, name: str, disk: str, volume: str) -> None:
        domain = self._connection.raw.lookupByName(name)
        domain.suspend()
        try:
            flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA  # the volume is all that we need
            domain.snapshotCreateXML(_SNAPSHOT_XML, flags)
            size = self._storage.bytes_of(disk) or 0
            if size > _LARGEST:
                raise TooLarge(f"it takes {size >> 20:,} MiB")
            self._storage.copy(volume, disk)
        finally:
            with told(f"{name} was stopped for a moment, and does not go on", "keep"):
                domain.resume()

    def _write(self, key: str, prepared: Prepared, volume: str) -> None:
        """Write what belongs to a state, so that all of it is there or nothing."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._directory / f"unfinished-{key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(mode=0o700)
            (unfinished / "seed").write_bytes(prepared.seed)
            (unfinished / "login").write_bytes(prepared.keys.login)
            (unfinished / "console").write_bytes(prepared.console)
            note = {"volume": volume, "machine": self._machine, "host_key": prepared.keys.host}
            (unfinished / _NOTE).write_text(json.dumps(note))
            place = self._directory / key
            shutil.rmtree(place, ignore_errors=True)  # of a volume that is gone
            unfinished.rename(place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _forget(self, key: str) -> None:
        with locked(self._lock(key)):
            self._drop(key)

    def _drop(self, key: str) -> None:
        note = self._note(key)
        shutil.rmtree(self._directory / key, ignore_errors=True)
        if note is not None:
            self._storage.remove(note["volume"])

    def _sweep(self) -> None:
        """Who makes a state holds its lock: what has none, and is no state, is nobody's any more."""
        prefix = f"{PREFIX}{self._ours}-"
        volumes = {name[len(prefix) :] for name in self._storage.names() if name.startswith(prefix)}
        unfinished = {path.name.partition("-")[2] for path in self._directory.glob("unfinished-*")}
        for key in volumes | unfinished:
            with suppress(BlockingIOError), locked(self._lock(key), wait=False):
                shutil.rmtree(self._directory / f"unfinished-{key}", ignore_errors=True)
                if key in volumes and self._note(key) is None:
                    self._storage.remove(f"{prefix}{key}")

    def _make_room(self) -> None:
        """Remove the states that were not used for longest, as far as they are too many."""
        self._sweep()
        room = _MOST_BYTES
        for place in sorted(self._places(), key=_last_use, reverse=True):
            note = self._note(place.name)
            if note is None:
                continue
            room -= self._storage.bytes_of(note["volume"]) or 0
            if room < 0:
                with suppress(BlockingIOError), locked(self._lock(place.name), wait=False):
                    self._drop(place.name)

    def _places(self) -> list[Path]:
        try:
            return [path for path in self._directory.iterdir() if (path / _NOTE).exists()]
        except FileNotFoundError:
            return []

    def _note(self, key: str) -> dict[str, Any] | None:
        """Return what is noted of a state of this daemon, if its volume is there."""
        try:
            note: dict[str, Any] = json.loads((self._directory / key / _NOTE).read_text())
        except (OSError, ValueError):
            return None
        is_here = note.get("machine") == self._machine
        if not is_here or self._storage.bytes_of(note["volume"]) is None:
            return None
        return note

    def _lock(self, key: str) -> Path:
        return self._locks / f"prepared-{key}.lock"


def _last_use(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except FileNotFoundError:  # it was removed at this moment
        return 0.0
