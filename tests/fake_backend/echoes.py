"""Probes between fake nodes: whoever is up and on the same network answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.network.echo import Path, Timing
from pytest_benchscale.network.matrix import PathMeasure
from tests.fake_backend.node import FakeNode

__all__ = ["FakeEchoes"]

_RTT_MS = 0.5


class FakeEchoes:
    """One fake node in one measurement; `opened` counts those that are not closed yet."""

    opened = 0

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        type(self).opened += 1

    @classmethod
    async def together(
        cls, stations: Mapping[str, Self], paths: Sequence[Path], timing: Timing
    ) -> Sequence[PathMeasure]:
        return [cls._measured(stations, path, timing.count) for path in paths]

    @classmethod
    def _measured(cls, stations: Mapping[str, Self], path: Path, count: int) -> PathMeasure:
        own = {one.network for one in stations[path.source]._node.plan.interfaces}
        other = stations.get(path.destination)
        there = [
            one.network
            for one in (other._node.plan.interfaces if other else ())
            if one.address.ip == path.address
        ]
        up = other is not None and other._node.status is NodeStatus.RUNNING
        got = count if up and own.intersection(there) else 0
        return PathMeasure(
            path.source,
            path.destination,
            str(path.address),
            count,
            got if other else None,
            got,
            (_RTT_MS,) * got,
        )

    def close(self) -> None:
        type(self).opened -= 1
