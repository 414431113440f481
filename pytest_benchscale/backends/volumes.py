"""The paths of the machine that a node is to see, checked before the node is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.errors import LabError

__all__ = ["VolumePlan", "volumes_of"]


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """One mounted path. `source` is absolute and without symlinks; `modes` are the declared ones."""

    source: Path
    target: str
    modes: tuple[str, ...]

    @property
    def is_read_only(self) -> bool:
        """Whether the node may not write there."""
        return "ro" in self.modes


def volumes_of(plan: NodePlan, lab: LabPlan) -> list[VolumePlan]:
    """Return what a node mounts, `SOURCE:TARGET[:MODE,...]` in its topology.

    Raises:
        LabError: a source is not there. Some container engines would make an empty directory of it.
    """
    return [_volume(text, plan, lab) for text in plan.spec.volumes]


def _volume(text: str, plan: NodePlan, lab: LabPlan) -> VolumePlan:
    source, target, *modes = text.split(":")
    path = Path(os.path.realpath(lab.directory / source))
    if not path.exists():
        raise LabError(
            f"node {plan.name!r}: the source of volume {text!r} does not exist: {path}",
            node=plan.name,
            step="volumes",
            resolution="create it, or correct the path: it is relative to the topology's file",
        )
    return VolumePlan(path, target, tuple(modes[0].split(",")) if modes else ())
