"""The faults that were made in a lab: which are active, and when each began and ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["FaultLog", "FaultRecord"]

_LIMIT = 10_000  # the newest records that a lab remembers


@dataclass(slots=True, eq=False)
class FaultRecord:
    """One fault: what it is, in words, and when it was there, as `time.time()` tells it."""

    what: str
    started: float
    ended: float | None = None

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.started))
        if self.ended is None:
            return f"{clock} {self.what}  [active]"
        return f"{clock} {self.what}  [{self.ended - self.started:.3f} s]"


class FaultLog:
    """The newest faults of a lab, oldest first."""

    def __init__(self) -> None:
        self._records: deque[FaultRecord] = deque(maxlen=_LIMIT)

    def __iter__(self) -> Iterator[FaultRecord]:
        return iter(tuple(self._records))

    @property
    def active(self) -> tuple[FaultRecord, ...]:
        """The faults that are there now, in the order in which they were made."""
        return tuple(record for record in self._records if record.ended is None)

    def since(self, moment: float) -> tuple[FaultRecord, ...]:
        """Return the faults that were active at a moment or began later."""
        return tuple(
            record for record in self._records if record.ended is None or record.ended >= moment
        )

    def begin(self, what: str) -> FaultRecord:
        """Write down that a fault is made now."""
        record = FaultRecord(what, time.time())
        self._records.append(record)
        return record

    def end(self, record: FaultRecord) -> None:
        """Write down that it is gone; once."""
        if record.ended is None:
            record.ended = time.time()

    @contextmanager
    def during(self, what: str) -> Iterator[FaultRecord]:
        """Write a fault down for the duration of a block."""
        record = self.begin(what)
        try:
            yield record
        finally:
            self.end(record)
