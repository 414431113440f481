"""What a session decides about its labs, beside what their files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.topology.addressing import IpNetwork

if TYPE_CHECKING:
    from pytest_benchscale.lab.findings import Findings

__all__ = ["LabOptions"]


@dataclass(frozen=True, slots=True)
class LabOptions:
    """The same for every lab of a session.

    `timeout_scale` multiplies every deadline of the lab's own and every wait, but not a command's
    timeout. `images` maps image names to references of the backend. Under `artifacts` each lab
    leaves its logs, its commands and its topology. `taken` are subnets that are never allocated.
    With `prepared`, a machine may go on from the state in which an earlier one like it became ready.
    `progress` is told of work that takes long, in the thread of the labs; `leaving` is told there how a
    lab was that goes, or that could not be brought up. A `resettable` lab remembers how
    its nodes were when they became ready, for `Lab.reset`.
    """

    conditions: Literal["enforce", "off"] = "enforce"
    timeout_scale: float = 1.0
    images: Mapping[str, str] = field(default_factory=dict)
    keep: Literal["never", "failed", "always"] = "never"
    keep_for: float = 8 * 3600.0
    reuse: bool = False
    artifacts: Path | None = None
    prepared: bool = True
    taken: tuple[IpNetwork, ...] = ()
    progress: Progress | None = None
    leaving: Callable[[Findings], None] | None = None
    resettable: bool = False
    title: str | None = None
