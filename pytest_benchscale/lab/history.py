"""The commands that were run in a lab, for the report of a failing test."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

__all__ = ["CommandRecord", "History"]

_LIMIT = 10_000  # the newest records that a lab remembers; about 3 MB


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One command, as a reader of a report wants to see it.

    `outcome` is an exit code, a signal, a timeout or an error, in words; `duration` is in seconds,
    `started` the time of the day as `time.time()` tells it.
    """

    node: str
    command_line: str
    outcome: str
    duration: float
    started: float

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.started))
        return f"{clock} {self.node}: {self.command_line}  [{self.outcome}, {self.duration:.3f} s]"


class History(deque[CommandRecord]):
    """The newest commands of a lab, oldest first."""

    def __init__(self) -> None:
        super().__init__(maxlen=_LIMIT)
