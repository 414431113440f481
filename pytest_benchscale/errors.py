"""Every error of this package, as one tree with `BenchscaleError` at its root.

    BenchscaleError
    ├── TopologyError        a topology file is wrong: path, line, column
    ├── BackendUnavailable   a backend cannot be used on this machine
    ├── NotSupported         a backend lacks a capability
    ├── LabError             a lab could not be brought up, used or torn down: node, step
    │   ├── FaultNotEffective  a fault was made and has no effect: what was measured
    │   ├── FaultNotHealed     a fault was taken back and is still there: what was measured
    │   ├── InvariantViolated  what must always hold did not: since when, and under which faults
    │   ├── MachineMissing   a machine that is to be used is not there
    │   └── SubnetTaken      a network's subnet is somebody else's: subnet
    ├── NodeDied             a node ended although nobody asked it to
    ├── CommandFailed        a checked command returned non-zero: result
    ├── CommandTimeout       a command outlived its deadline: the result so far
    └── WaitTimeout          a wait outlived its deadline: the last state seen

`FaultWarning` and `GuestWarning` are warnings, not errors.

Each says what happened (`brief`), what is known about it (`details`) and what to do (`resolution`);
`str(error)` is the three of them, one below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from pytest_benchscale.results import ExecResult

__all__ = [
    "BackendUnavailable",
    "BenchscaleError",
    "CommandFailed",
    "CommandTimeout",
    "FaultNotEffective",
    "FaultNotHealed",
    "FaultWarning",
    "GuestWarning",
    "InvariantViolated",
    "LabError",
    "MachineMissing",
    "NodeDied",
    "NotSupported",
    "Problem",
    "SubnetTaken",
    "TopologyError",
    "WaitTimeout",
]


class BenchscaleError(Exception):
    """The root of the tree; catches everything this package raises on purpose."""

    def __init__(
        self, brief: str, *, details: str | None = None, resolution: str | None = None
    ) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        parts = [self.brief, self.details]
        if self.resolution:
            parts.append(f"What to do: {self.resolution}")
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a topology: where it is (1-based line and column) and what it is.

    `line` and `column` are 0 where there are none: the topology came from Python, or the file as a whole is
    wrong.
    """

    path: Path | None
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path or '<topology>'}:"
        if self.line:
            place += f"{self.line}:{self.column}:"
        return " ".join(
            part for part in (place, self.where and f"{self.where}:", self.message) if part
        )


class TopologyError(BenchscaleError):
    """A topology is wrong. All its problems are reported at once, in file order."""

    def __init__(self, problems: Sequence[Problem], *, resolution: str | None = None) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        self.path, self.line, self.column = first.path, first.line, first.column
        rest = "\n".join(str(problem) for problem in self.problems[1:])
        super().__init__(str(first), details=rest or None, resolution=resolution)


class BackendUnavailable(BenchscaleError):
    """A backend cannot be used on this machine: the reason, and what would make it usable."""

    def __init__(self, backend: str, reason: str, *, resolution: str | None = None) -> None:
        super().__init__(f"backend {backend!r} is not usable: {reason}", resolution=resolution)
        self.backend = backend
        self.reason = reason


class NotSupported(BenchscaleError):
    """A backend was asked for a capability that it does not have."""

    def __init__(
        self,
        backend: str,
        capability: str,
        *,
        details: str | None = None,
        resolution: str | None = None,
    ) -> None:
        super().__init__(
            f"backend {backend!r} does not support {capability}",
            details=details,
            resolution=resolution,
        )
        self.backend = backend
        self.capability = capability


class LabError(BenchscaleError):
    """A lab could not be brought up, used or torn down: at which node, in which step."""

    def __init__(
        self,
        brief: str,
        *,
        node: str | None = None,
        step: str | None = None,
        details: str | None = None,
        resolution: str | None = None,
    ) -> None:
        super().__init__(brief, details=details, resolution=resolution)
        self.node = node
        self.step = step


class FaultNotEffective(LabError):
    """A fault was made, and measuring shows that it is not there; `details` is what was measured."""


class FaultNotHealed(LabError):
    """A fault was taken back, and measuring shows that it is still there; `details` is what was measured."""


class InvariantViolated(LabError):
    """What must always hold did not, for too long; `details` has the faults that were active meanwhile.

    `__cause__` is what the check raised last, if anything.
    """


class MachineMissing(LabError):
    """The machine that a node's `existing` names is not there."""


class SubnetTaken(LabError):
    """A network cannot have its subnet, since `subnet` is in use by what `holder` tells."""

    def __init__(self, network: str, subnet: IPv4Network | IPv6Network, holder: str) -> None:
        super().__init__(
            f"network {network!r} cannot have the subnet {subnet}: {holder}",
            step="network",
            resolution="give the network another `subnet:`, or none, to have a free one chosen",
        )
        self.subnet = subnet


class NodeDied(BenchscaleError):
    """A node ended although nobody asked it to; `details` holds the end of its log."""

    def __init__(self, node: str, reason: str, *, details: str | None = None) -> None:
        super().__init__(
            f"node {node!r} died: {reason}",
            details=details,
            resolution=f"look at the node's log above; `await lab[{node!r}].start()` starts it again",
        )
        self.node = node
        self.reason = reason


class CommandFailed(BenchscaleError):
    """A command that was run with `check=True` returned non-zero; `result` is what it left behind."""

    def __init__(self, result: ExecResult, *, node: str | None = None) -> None:
        place = f" on node {node!r}" if node else ""
        super().__init__(
            f"command failed with {result.outcome}{place}: {result.command_line}",
            details=result.output_excerpt(),
        )
        self.result = result
        self.node = node


class CommandTimeout(BenchscaleError):
    """A command outlived its deadline and was killed, children included; `result` is its output so far."""

    def __init__(self, result: ExecResult, timeout: float, *, node: str | None = None) -> None:
        place = f" on node {node!r}" if node else ""
        super().__init__(
            f"command timed out after {timeout:g} s{place} and was killed: {result.command_line}",
            details=result.output_excerpt(),
            resolution="give it more time with timeout=..., or run it with node.process(...) "
            "if it is meant to go on",
        )
        self.result = result
        self.timeout = timeout
        self.node = node


class WaitTimeout(BenchscaleError):
    """What was waited for did not happen in time; `last_state` is what was seen last."""

    def __init__(
        self, awaited: str, timeout: float, last_state: str, *, node: str | None = None
    ) -> None:
        place = f" on node {node!r}" if node else ""
        super().__init__(
            f"waited {timeout:g} s{place} for {awaited}, in vain",
            details=f"last seen: {last_state}",
        )
        self.awaited = awaited
        self.timeout = timeout
        self.last_state = last_state
        self.node = node


class FaultWarning(UserWarning):
    """A test has left faults behind, which were taken back at its end."""


class GuestWarning(UserWarning):
    """A guest is ready, and complained of something on the way."""
