"""Real machines for a test, declared in one file.

The public names are imported when first used, so that an installed but unused plugin costs nothing.
"""

from __future__ import annotations

# What `typing` calls so; importing it would cost more than all of this module.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from pytest_benchscale.errors import BackendUnavailable as BackendUnavailable
    from pytest_benchscale.errors import BenchscaleError as BenchscaleError
    from pytest_benchscale.errors import CommandFailed as CommandFailed
    from pytest_benchscale.errors import CommandTimeout as CommandTimeout
    from pytest_benchscale.errors import LabError as LabError
    from pytest_benchscale.errors import NodeDied as NodeDied
    from pytest_benchscale.errors import NotSupported as NotSupported
    from pytest_benchscale.errors import TopologyError as TopologyError
    from pytest_benchscale.errors import WaitTimeout as WaitTimeout
    from pytest_benchscale.lab.lab import Lab as Lab
    from pytest_benchscale.lab.node import Node as Node
    from pytest_benchscale.results import ExecResult as ExecResult
    from pytest_benchscale.topology.model import Topology as Topology

__version__ = "0.1.0"

_HOME = {
    "BackendUnavailable": "errors",
    "BenchscaleError": "errors",
    "CommandFailed": "errors",
    "CommandTimeout": "errors",
    "ExecResult": "results",
    "Lab": "lab.lab",
    "LabError": "errors",
    "Node": "lab.node",
    "NodeDied": "errors",
    "NotSupported": "errors",
    "Topology": "topology.model",
    "TopologyError": "errors",
    "WaitTimeout": "errors",
}

__all__ = [
    "BackendUnavailable",
    "BenchscaleError",
    "CommandFailed",
    "CommandTimeout",
    "ExecResult",
    "Lab",
    "LabError",
    "Node",
    "NodeDied",
    "NotSupported",
    "Topology",
    "TopologyError",
    "WaitTimeout",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as lazily as the names

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
