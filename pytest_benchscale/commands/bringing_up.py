"""Bringing a lab up for the command line, and keeping it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BenchscaleError, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.lab.removal import remove
from pytest_benchscale.topology.model import Topology

__all__ = ["bring_up"]


def bring_up(
    file: Path,
    *,
    name: str | None,
    backend: str | None,
    images: Mapping[str, str],
    presets: Sequence[Path],
    seconds: float,
) -> dict[str, Any]:
    """Bring the lab of a file up and keep it for some time; return what there is to tell of it.

    Whatever ends this early, also Ctrl-C, leaves nothing.

    Raises:
        BenchscaleError: it cannot be, or cannot be kept.
    """
    _check_name(name)
    topology = Topology.load(file, presets=presets)
    progress = _show if sys.stderr.isatty() else None
    options = LabOptions(images=images, title=name, progress=progress, keep="always")
    with Portal() as portal:
        chosen = portal.call_blocking(
            registry.resolve, topology, backend or topology.backend or registry.AUTO, images
        ).name
        cls = registry.get(chosen)
        if Capability.KEEP not in cls.capabilities:
            raise NotSupported(
                chosen, Capability.KEEP, resolution="name another backend with --backend"
            )
        lab = Lab(topology, cls(), portal=portal, options=options)
        try:
            portal.call_blocking(lab.up)
            facts = _facts(lab, time.time() + seconds)
            lab.sync.keep(seconds, conditioned=True)
        except BaseException:
            if lab.is_up:
                portal.call_blocking(lab.down)
            elif lab.lab_id and (entry := Ledger().take(lab.lab_id)):  # it had just been kept
                portal.call_blocking(remove, entry)
            raise
    return facts


def _facts(lab: Lab, until: float) -> dict[str, Any]:
    return {
        "lab": lab.lab_id,
        "name": lab.options.title,
        "topology": lab.name,
        "backend": lab.backend,
        "until": until,
        "nodes": {
            name: {
                "addresses": {network: str(one) for network, one in node.addresses.items()},
                "ports": dict(node.ports),
            }
            for name, node in lab.nodes.items()
        },
    }


def _check_name(name: str | None) -> None:
    if name is None:
        return
    if not name or ":" in name or "/" in name or name.startswith((".", "-")):
        raise BenchscaleError(
            f"--name: {name!r} cannot be the name of a lab",
            resolution="choose a word without `:` and `/`, which `benchscale cp` could tell from a path",
        )
    for found in Ledger().labs():
        if found.record is not None and found.record.title == name:
            raise BenchscaleError(
                f"--name: there is a lab {name!r} already: {found.lab_id} ({found.standing})",
                resolution=f"choose another name, or end that one: benchscale down {name}",
            )


def _show(line: str) -> None:
    print(f"benchscale: {line}", file=sys.stderr)
