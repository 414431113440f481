"""Whether a backend can run a topology, asked before anything is created."""

from __future__ import annotations

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.requirements import conditions_needed, unmet
from pytest_benchscale.errors import LabError, NotSupported
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.topology.model import Topology

__all__ = ["require_runnable"]


def require_runnable(context: LabContext, topology: Topology) -> None:
    """Refuse what this backend cannot run.

    Raises:
        NotSupported: it lacks a capability that the topology needs.
        LabError: it cannot run the topology for another reason.
    """
    backend = context.backend
    registry.check_own(topology, backend.name)
    if needs := unmet(topology, backend.capabilities):
        raise NotSupported(
            backend.name,
            needs[0].capability,
            details="\n".join(f"{need.where} needs {need.capability}" for need in needs),
            resolution="choose another backend, or leave these keys out",
        )
    condition = None if context.options.conditions == "off" else conditions_needed(topology)
    if condition is not None and condition.capability not in backend.capabilities:
        raise NotSupported(
            backend.name,
            condition.capability,
            details=f"topology {topology.name!r} declares them: {condition.where}",
            resolution="run it without them, with --benchscale-conditions=off",
        )
    if reasons := backend.can_run(topology, context.options.images):
        raise LabError(
            f"backend {backend.name!r} cannot run topology {topology.name!r}",
            step="check",
            details="\n".join(reasons),
            resolution="choose another backend, or change what it cannot do",
        )
