"""The keys of one lab: ours, by which guests let us in, and those that they show us."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import asyncssh

from pytest_benchscale.backends.libvirt.cloud_init import HostKey

__all__ = ["LabKeys"]

_ALGORITHM = "ssh-ed25519"


class LabKeys:
    """Made for one lab, and gone with it."""

    def __init__(self, lab_id: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"benchscale-{lab_id}-"))
        key = asyncssh.generate_private_key(_ALGORITHM, comment="benchscale")
        self.path = self._directory / "key"
        key.write_private_key(self.path)
        self.path.chmod(0o600)
        self.public = key.export_public_key().decode().strip()
        self._host_keys: dict[str, HostKey] = {}

    def host_key(self, node: str) -> HostKey:
        """Return the key of a node, the same each time."""
        if node not in self._host_keys:
            key = asyncssh.generate_private_key(_ALGORITHM, comment="benchscale")
            self._host_keys[node] = HostKey(
                key.export_private_key().decode(), key.export_public_key().decode().strip()
            )
        return self._host_keys[node]

    def close(self) -> None:
        """Remove our key."""
        shutil.rmtree(self._directory, ignore_errors=True)
