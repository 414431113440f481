"""What a run has to tell of its labs at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome"]


@dataclass(slots=True)
class Outcome:
    """What a run has to tell at its end. Plain data: an xdist worker sends it to the controller."""

    skipped: dict[str, int] = field(default_factory=dict)
    teardown_errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    reuse: list[str] = field(default_factory=list)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what a worker has to tell: its `LabSession.message`."""
        self.skipped = dict(Counter(self.skipped) + Counter(other["skipped"]))
        self.teardown_errors += other["teardown_errors"]
        self.kept += other["kept"]
        self.reuse += other["reuse"]
        self.notes += [line for line in other["notes"] if line not in self.notes]

    def sections(self, *, quiet: bool) -> Iterator[tuple[str, list[str]]]:
        """Return titles and lines for the end of the report."""
        if self.notes and not quiet:
            yield "labs of the workers", self.notes
        if self.skipped:
            yield (
                "skipped for want of a backend or a machine",
                [f"{count} x {reason}" for reason, count in self.skipped.items()],
            )
        if self.reuse and not quiet:
            yield "labs from session to session", self.reuse
        if self.kept:
            yield "labs that were kept", self.kept
        if self.teardown_errors:
            yield "not taken down cleanly", self.teardown_errors
