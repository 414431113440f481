"""What a topology holds that belongs in no report: passwords, and whatever is in environments and files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_benchscale.topology.model import Topology

__all__ = ["MASK", "Masker", "declared_without_secrets"]

MASK = "***"
_SHORTEST = 4  # characters; in place of a shorter one, half of any text would be masked


class Masker:
    """Takes a topology's passwords out of texts, and out of all texts in plain data."""

    def __init__(self, topology: Topology) -> None:
        names = {topology.name, *(node.name for node in topology.nodes), *_users(topology)}
        known = {secret for secret in _passwords(topology) if len(secret) >= _SHORTEST} - names
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, data: Any) -> Any:
        """Return the same data without them."""
        if isinstance(data, str):
            for secret in self._secrets:
                data = data.replace(secret, MASK)
            return data
        if isinstance(data, dict):
            return {key: self(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self(value) for value in data]
        return data


def declared_without_secrets(topology: Topology) -> dict[str, Any]:
    """Return what a topology declares, as JSON has it, with a mask in place of each secret."""
    declared = topology.model_dump(mode="json", exclude_defaults=True)
    for node in declared["nodes"]:
        if env := node.get("env"):
            node["env"] = dict.fromkeys(env, MASK)
        for part in (node.get("ssh"), node.get("cloud_init")):
            if part and part.get("password"):
                part["password"] = MASK
        for file in (node.get("cloud_init") or {}).get("write_files", ()):
            if file.get("content"):
                file["content"] = MASK
    return declared


def _passwords(topology: Topology) -> Iterable[str]:
    for node in topology.nodes:
        yield from (part.password for part in (node.ssh, node.cloud_init) if part and part.password)


def _users(topology: Topology) -> Iterable[str]:
    for node in topology.nodes:
        yield from (part.user for part in (node.ssh, node.cloud_init) if part and part.user)
