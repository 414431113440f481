"""The keys of one lab: ours, by which guests let us in, and those that they show us."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import asyncssh

from pytest_benchscale.backends.libvirt.cloud_init import HostKey

__all__ = ["GuestKeys", "LabKeys"]

_ALGORITHM = "ssh-ed25519"
_DIRECTORY = "keys"


@dataclass(frozen=True, slots=True)
class GuestKeys:
    """Those of one guest: `login` is the private key that it lets in, `host` the public one that it shows."""

    login: bytes = field(repr=False)
    host: str


class LabKeys:
    """Made for one lab, and gone with it; a guest that goes on from a kept state has those it had.

    They are in the lab's own directory `files`, so that whoever clears up after us removes them, too; in a
    temporary one where it has none.
    """

    def __init__(self, lab_id: str, files: Path | None = None) -> None:
        if files is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"benchscale-{lab_id}-"))
        else:
            self._directory = files / _DIRECTORY
            self._directory.mkdir(mode=0o700, exist_ok=True)
        self._host_keys: dict[str, HostKey] = {}
        self._kept: dict[str, tuple[GuestKeys, Path]] = {}

    @cached_property
    def _own(self) -> tuple[bytes, str, Path]:
        """The key of ours that we make, both halves, and its file: once a guest is to let it in."""
        key = asyncssh.generate_private_key(_ALGORITHM, comment="benchscale")
        login = key.export_private_key()
        return login, key.export_public_key().decode().strip(), self._write(login)

    @property
    def public(self) -> str:
        """The public half of our key."""
        return self._own[1]

    def host_key(self, node: str) -> HostKey:
        """Return the key that we make for a node, the same each time."""
        if node not in self._host_keys:
            key = asyncssh.generate_private_key(_ALGORITHM, comment="benchscale")
            self._host_keys[node] = HostKey(
                key.export_private_key().decode(), key.export_public_key().decode().strip()
            )
        return self._host_keys[node]

    def of(self, node: str) -> GuestKeys:
        """Return the keys by which a node is reached."""
        if node in self._kept:
            return self._kept[node][0]
        return GuestKeys(self._own[0], self.host_key(node).public)

    def login_file(self, node: str) -> Path:
        """Return the file with the key that a node lets in."""
        return self._kept[node][1] if node in self._kept else self._own[2]

    def take_over(self, node: str, keys: GuestKeys) -> None:
        """Use the keys that a node had before."""
        self._kept[node] = (keys, self._write(keys.login))

    def find(self, node: str, file: str, host: str) -> None:
        """Use the keys of a node that another process has kept: a file that is here, and the host's.

        Raises:
            OSError: it is not here.
        """
        path = self._directory / file
        self._kept[node] = (GuestKeys(path.read_bytes(), host), path)

    def make_anew(self, node: str) -> None:
        """Use keys of our own for a node again."""
        self._kept.pop(node, None)

    def close(self) -> None:
        """Remove our keys."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self, key: bytes) -> Path:
        path = self._directory / f"key-{uuid.uuid4().hex[:8]}"  # never one that a kept lab needs
        path.touch(0o600)
        path.write_bytes(key)
        return path
