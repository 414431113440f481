"""What was measured: rows of samples, one list a contestant, and who was missing and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Samples = dict[str, list[float]]
"""Contestant -> samples; seconds or MiB, as the row's title says."""

PEERS = (
    *("mininet", "munet", "nsenter", "tar"),
    *("compose", "sdk", "sdk-8", "cli", "docker cp", "aiodocker", "testcontainers"),
    *("asyncssh", "ssh", "scp", "sftp"),
)


@dataclass
class Results:
    """Rows in the order in which they were measured; `absent` goes by job and contestant."""

    rows: dict[str, Samples] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, measured: Mapping[str, Sequence[float]], contestant: str) -> None:
        """Append samples, given by row."""
        for row, values in measured.items():
            self.rows.setdefault(row, {}).setdefault(contestant, []).extend(values)

    def miss(self, job: str, contestant: str, reason: str) -> None:
        """Note why a contestant is not, or not wholly, in a job's rows."""
        self.absent.setdefault(job, {}).setdefault(contestant, reason)

    def median(self, row: str, contestant: str) -> float | None:
        """Return the median of a row's samples, None when there are none."""
        samples = self.rows.get(row, {}).get(contestant)
        return median(samples) if samples else None

    def best_peer(self, row: str) -> float | None:
        """Return the lowest median of all peers in a row."""
        medians = [self.median(row, peer) for peer in PEERS]
        return min((value for value in medians if value is not None), default=None)
