"""What is written down of a lab, so that another process can find it, use it and remove it. Plain data."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.lab.owner import since_boot
from pytest_benchscale.topology.model import UNCHECKED, Topology

__all__ = ["FORMAT", "Kept", "LabRecord"]

FORMAT = 1
"""Of the ledger's files; a newer one is left alone."""

_RUN = "benchscale.run"


@dataclass(frozen=True, slots=True)
class LabRecord:
    """One lab, as it is written down before the first thing of it is made.

    `labels` are those on everything that is made for it. `place` holds the environment variables by which
    the backend finds the same daemon again. `subnets` go by network. `declared` is the topology as JSON.
    `title` is a name that the user gave this one lab.
    `created` is in seconds since 1970, `booted` in seconds since the machine's boot.
    """

    lab_id: str
    name: str
    backend: str
    labels: Mapping[str, str]
    place: Mapping[str, str]
    subnets: Mapping[str, str]
    nodes: tuple[str, ...]
    declared: Mapping[str, Any]
    source: str | None
    created: float
    booted: float
    images: Mapping[str, str] = field(default_factory=dict)
    conditions: Literal["enforce", "off"] = "enforce"
    timeout_scale: float = 1.0
    resettable: bool = False
    title: str | None = None
    format: int = FORMAT

    @classmethod
    def of(cls, plan: LabPlan, topology: Topology, **further: Any) -> LabRecord:
        """Return what there is to write down of a lab; `further` are the fields that neither knows."""
        return cls(
            lab_id=plan.lab_id,
            name=plan.name,
            labels=dict(plan.labels),
            subnets={network.name: str(network.subnet) for network in plan.networks},
            nodes=tuple(node.name for node in plan.nodes),
            declared=topology.model_dump(mode="json", exclude_unset=True),
            source=str(topology.source) if topology.source else None,
            images=dict(plan.images),
            timeout_scale=plan.timeout_scale,
            **further,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabRecord:
        """Return the record that `to_json` made.

        Raises:
            TypeError, ValueError, KeyError: it is none.
        """
        record = cls(**{**data, "nodes": tuple(data["nodes"])})
        texts = (record.lab_id, record.name, record.backend, *record.nodes)
        pairs = (*record.labels.items(), *record.place.items(), *record.subnets.items())
        if not all(isinstance(text, str) for text in (*texts, *itertools.chain(*pairs))):
            raise TypeError("what should be a text is none")
        if not record.labels[_RUN]:
            raise ValueError("it does not say whose the lab is")
        float(record.created), float(record.booted)
        return record

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @property
    def owner(self) -> str:
        """The run that the lab belongs to, as its labels say."""
        return self.labels[_RUN]

    def topology(self) -> Topology:
        """Return the topology, with the subnets that its networks were given.

        Raises:
            ValueError: it is not one that this version understands.
        """
        networks = [
            {**network, "subnet": self.subnets[network["name"]]}
            for network in self.declared["networks"]
        ]
        topology = Topology.model_validate(
            {**self.declared, "networks": networks}, context=UNCHECKED
        )
        return topology.placed_at(Path(self.source)) if self.source else topology


@dataclass(frozen=True, slots=True)
class Kept:
    """What is written down of a lab that stays when its session ends.

    `state` is the backend's own, for `adopt`; `image_ids` tell by node which contents its image had.
    `until` is in seconds since 1970, None: for ever. `dirty`: a test of it failed. `reuse`: the next
    session may take it over, if what it asks for has the same `fingerprint`.
    """

    state: Mapping[str, Any]
    image_ids: Mapping[str, str]
    until: float | None = None
    until_booted: float | None = None  # the same since the boot: the clock may be set meanwhile
    dirty: bool = False
    reuse: bool = False
    fingerprint: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kept:
        """Return what `to_json` made.

        Raises:
            TypeError: it is none.
        """
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def lasting(self, seconds: float | None) -> Kept:
        """Return the same until so many seconds from now; None: for ever."""
        if seconds is None:
            return replace(self, until=None, until_booted=None)
        return replace(self, until=time.time() + seconds, until_booted=since_boot() + seconds)
