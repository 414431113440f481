"""What a daemon can do, and what of a topology it therefore does not enforce, or cannot run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_benchscale.backends.base import Capability, LabPlan
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.model import Topology

__all__ = ["CAPABILITIES", "Ability", "ability_of", "not_enforced", "refuse_volumes_elsewhere"]

CAPABILITIES = frozenset(
    {
        Capability.FULL_DISK,
        Capability.PAUSE,
        Capability.STOP,
        Capability.CONDITIONS,
        Capability.PARTITIONS,
        Capability.MEMORY_LIMIT,
        Capability.CPU_LIMIT,
        Capability.INTERNET,
        Capability.PUBLISHED_PORTS,
        Capability.VOLUMES,
        Capability.MAIN_COMMAND,
        Capability.USERS,
        Capability.PLATFORM,
        Capability.LOG_TIMES,
        Capability.KEEP,
        Capability.RESET,
    }
)


@dataclass(frozen=True, slots=True)
class Ability:
    """What a daemon can do; `cpus` is 0 where unknown.

    `endpoint_mac`: each attachment of a container has a MAC address of its own. `internal`: packets pass on a
    network without a way out.
    """

    endpoint_mac: bool = False
    internal: bool = True
    memory_limit: bool = True
    swap_limit: bool = True
    cpu_limit: bool = True
    cpus: int = 0
    init: bool = True


def ability_of(
    info: Mapping[str, Any], api_version: str, dialect: Dialect, *, internal: bool = True
) -> Ability:
    """Return it according to the daemon's `/info`."""
    version = tuple(int(part) for part in api_version.split("."))
    return Ability(
        endpoint_mac=version >= dialect.endpoint_mac,
        internal=internal,
        memory_limit=bool(info.get("MemoryLimit", True)),
        swap_limit=bool(info.get("SwapLimit", True)),
        cpu_limit=bool(info.get("CpuCfsQuota", True)),
        cpus=int(info.get("NCPU") or 0),
    )


def not_enforced(topology: Topology, ability: Ability) -> Iterator[str]:
    """Yield what a topology declares and the daemon cannot enforce."""
    enforced = {"memory_mb": ability.memory_limit, "vcpus": ability.cpu_limit}
    for node in topology.nodes:
        for key, works in enforced.items():
            if getattr(node, key) is not None and not works:
                yield f"{key} of node {node.name!r} is not enforced: the daemon has no such control group"


def refuse_volumes_elsewhere(engine: Engine, plan: LabPlan) -> None:
    """Refuse volumes where the daemon does not see our files.

    Raises:
        LabError: a node has some.
    """
    users = [node.name for node in plan.nodes if node.spec.volumes]
    if users and not engine.address.is_local:
        raise LabError(
            f"node {users[0]!r} has volumes, and the daemon at {engine.address} is on another machine, "
            "which does not share its files with this one",
            node=users[0],
            step="volumes",
            resolution="copy the files in, with `deploy:`, or use a daemon on this machine",
        )
