"""Measuring what a fault does, so that one without effect does not pass for one that was survived."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.probing import measure_pairs
from pytest_benchscale.network.matrix import Matrix, PathMeasure

__all__ = ["A_MOMENT", "LONG", "Pair", "Witness"]

Pair = tuple[str, str]
"""Sender and receiver."""

A_MOMENT = 1.0  # seconds, until nodes that reach each other have shown it
LONG = 10.0  # seconds, until nodes have found each other again: they look for it once a second
_ROUND = 0.3  # seconds that one try of it takes at most, beyond the round trip
_MARGIN = 0.05  # seconds to wait for what shall not come, beyond the round trip


class Witness:
    """Measures between the nodes of a lab, on behalf of faults. Lives in the portal."""

    def __init__(self, context: LabContext, machines: Mapping[str, Machine]) -> None:
        self._context = context
        self._machines = machines
        self._slowest = 0.0  # seconds: the longest round trip that was seen

    def is_up(self, node: str) -> bool:
        """Return whether a node could answer."""
        info = self._machines[node].info
        return info is not None and info.status in {NodeStatus.RUNNING, NodeStatus.PAUSED}

    @staticmethod
    def reached(matrix: Matrix, pair: Pair) -> bool:
        """Return whether anything got through."""
        return pair in matrix and matrix[pair].reached

    @staticmethod
    def stays_away(matrix: Matrix, pair: Pair) -> bool:
        """Return whether nothing got through although something was sent: nobody was down."""
        return pair in matrix and matrix[pair].sent > 0 and not matrix[pair].reached

    async def measure(self, pairs: Sequence[Pair], network: str | None, *, count: int) -> Matrix:
        """Send `count` requests for each pair; what has not come after the usual time does not count."""
        patience = self._context.scaled(_MARGIN) + 2 * self._slowest
        return await self._measured(pairs, network, count, 0.005, patience)

    async def compare(
        self, pairs: Sequence[Pair], network: str | None, count: int, slowest: float
    ) -> Matrix:
        """Send `count` requests for each pair; the slowest answer takes `slowest` s by what is declared."""
        patience = self._context.scaled(_ROUND) + 2 * max(slowest, self._slowest)
        return await self._measured(pairs, network, count, 0.002, patience)

    async def until_reached(
        self, pairs: Sequence[Pair], network: str | None, timeout: float
    ) -> Matrix:
        """Measure again and again until each pair has got through, `timeout` s (scaled) at most.

        The matrix has the last measure of each pair.
        """
        deadline = time.monotonic() + self._context.scaled(timeout)
        last: dict[Pair, PathMeasure] = {}
        left = list(pairs)
        patience = self._context.scaled(_ROUND) + 2 * self._slowest
        while True:
            matrix = await self._measured(left, network, 1, 0.0, patience)
            last.update({(one.source, one.destination): one for one in matrix})
            left = [pair for pair in left if self.stays_away(matrix, pair)]
            if not left or time.monotonic() >= deadline:
                return Matrix(matrix.nodes, last.values())

    async def _measured(
        self,
        pairs: Sequence[Pair],
        network: str | None,
        count: int,
        interval: float,
        patience: float,
    ) -> Matrix:
        matrix = await measure_pairs(
            self._context,
            self._machines,
            pairs,
            network=network,
            count=count,
            interval=interval,
            patience=patience,
        )
        slowest = max((max(one.rtts_ms, default=0.0) for one in matrix), default=0.0)
        self._slowest = max(self._slowest, slowest / 1000)
        return matrix
