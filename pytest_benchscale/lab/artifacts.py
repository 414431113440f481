"""What a lab leaves behind for a reader: its logs, its commands and faults, the topology as it was run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.plan import hostname_of
from pytest_benchscale.lab.secrets import declared_without_secrets
from pytest_benchscale.topology.model import Topology

__all__ = ["write_artifacts"]


def write_artifacts(
    directory: Path,
    topology: Topology,
    plan: LabPlan,
    context: LabContext,
    logs: Mapping[str, str],
) -> Path:
    """Write `topology.json`, `commands.log`, `faults.log` and `nodes/NAME.log`; return their directory.

    Raises:
        OSError: it cannot be written to.
    """
    place = directory / f"{hostname_of(plan.name)}-{plan.lab_id}"
    (place / "nodes").mkdir(parents=True, exist_ok=True)
    run = {
        "lab_id": plan.lab_id,
        "backend": context.backend.name,
        "source": str(topology.source) if topology.source else None,
        "networks": {network.name: str(network.subnet) for network in plan.networks},
        "addresses": {
            node.name: {one.network: str(one.address) for one in node.interfaces}
            for node in plan.nodes
        },
        "topology": declared_without_secrets(topology),
    }
    (place / "topology.json").write_text(json.dumps(run, indent=2) + "\n")
    commands = "".join(f"{record}\n" for record in context.history)
    (place / "commands.log").write_text(commands, errors="backslashreplace")
    (place / "faults.log").write_text("".join(f"{fault}\n" for fault in context.faults))
    for name, log in logs.items():
        (place / "nodes" / f"{hostname_of(name)}.log").write_text(log, errors="backslashreplace")
    return place
