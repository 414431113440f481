"""What was measured between nodes: who reaches whom, how fast, and how much is lost on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Matrix", "PathMeasure", "Reachability"]

_WIDEST_TABLE = 12  # nodes; more of them do not fit side by side


class Reachability(dict[str, list[str]]):
    """Every node with the nodes that it reaches, in the order of the file: to be compared with a dict."""


@dataclass(frozen=True, slots=True)
class PathMeasure:
    """What became of the requests that one node sent to another. Times are in ms.

    `delivered` requests arrived at the destination; None: that could not be seen. `answered` are those
    whose answer came back, `rtts_ms` how long each of these took, `delays_ms` how long those that arrived
    took one way, where both ends have the same clock. Nothing was sent from or to a node that is down.
    """

    source: str
    destination: str
    address: str
    sent: int
    delivered: int | None
    answered: int
    rtts_ms: tuple[float, ...] = ()
    delays_ms: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} ({self.address}): {self.outcome}"

    @property
    def reached(self) -> bool:
        """Whether anything that was sent arrived; where that could not be seen, whether it was answered."""
        return bool(self.delivered or self.answered)

    @property
    def median_rtt_ms(self) -> float | None:
        """The median of the round trips, None without any."""
        return median(self.rtts_ms) if self.rtts_ms else None

    @property
    def one_way_ms(self) -> float | None:
        """The median time to the destination, None where it is not known."""
        return median(self.delays_ms) if self.delays_ms else None

    @property
    def loss_percent(self) -> float:
        """The share of round trips that were lost, there or back; all of them, where nothing was sent."""
        return 100 * (1 - self.answered / self.sent) if self.sent else 100.0

    @property
    def delivered_percent(self) -> float | None:
        """The share of requests that arrived, None where that could not be seen."""
        if self.delivered is None:
            return None
        return 100 * self.delivered / self.sent if self.sent else 0.0

    @property
    def outcome(self) -> str:
        """It in a few words."""
        if not self.sent:
            return "down"
        if not self.answered:
            if self.delivered:
                return "arrives, no answer"
            return "cut" if self.delivered == 0 else "no answer"
        time = f"{_figure(self.median_rtt_ms or 0.0)} ms"
        if self.answered == self.sent:
            return time
        return f"{time}, {self.loss_percent:.0f} % lost"


class Matrix:
    """What was measured on each path: `matrix["a", "b"]` is the one from a to b."""

    def __init__(self, nodes: Sequence[str], measures: Iterable[PathMeasure]) -> None:
        self.nodes = tuple(nodes)
        self._measures = {(one.source, one.destination): one for one in measures}

    def __getitem__(self, path: tuple[str, str]) -> PathMeasure:
        try:
            return self._measures[path]
        except KeyError:
            raise KeyError(
                f"nothing was measured from {path[0]!r} to {path[1]!r}: have both a place on the network?"
            ) from None

    def __contains__(self, path: object) -> bool:
        return path in self._measures

    def __iter__(self) -> Iterator[PathMeasure]:
        return iter(self._measures.values())

    def __len__(self) -> int:
        return len(self._measures)

    def __repr__(self) -> str:
        return f"<Matrix of {len(self.nodes)} nodes, {len(self)} paths>"

    def __str__(self) -> str:
        """It as a table, a row for each source; of many nodes only what is not well."""
        return self._table() if len(self.nodes) <= _WIDEST_TABLE else self._summary()

    def reachability(self) -> Reachability:
        """Return who reaches whom, in one direction each."""
        return Reachability(
            {
                source: [
                    destination
                    for destination in self.nodes
                    if (source, destination) in self and self[source, destination].reached
                ]
                for source in self.nodes
            }
        )

    def _table(self) -> str:
        rows = [["from \\ to", *self.nodes]]
        rows += [
            [source, *(self._cell(source, destination) for destination in self.nodes)]
            for source in self.nodes
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _cell(self, source: str, destination: str) -> str:
        measure = self._measures.get((source, destination))
        return "-" if measure is None else measure.outcome

    def _summary(self) -> str:
        well = [one for one in self if one.sent and one.answered == one.sent]
        times = sorted(one.median_rtt_ms or 0.0 for one in well)
        lines = [f"{len(self.nodes)} nodes, {len(self)} paths, {len(well)} without loss"]
        if times:
            lines[0] += f", {_figure(times[0])} to {_figure(times[-1])} ms"
        lines += [str(one) for one in self if one not in well]
        return "\n".join(lines)


def _figure(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"
