"""The commands of `ping`, of iputils and of busybox, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["SHORTEST_INTERVAL", "commands", "parse"]

SHORTEST_INTERVAL = 0.2
"""Seconds between two requests: less is for root, or in no version at all."""

_STATISTICS = re.compile(r"^\d+ packets transmitted, (\d+) (?:packets )?received", re.MULTILINE)
_ANSWER = re.compile(r"^\d+ bytes from .*[ =]time[=<]([0-9.]+) ms(?!.*DUP)", re.MULTILINE)
_NO_WAY = re.compile("unreachable", re.IGNORECASE)


def commands(address: str, count: int, interval: float, patience: int) -> Iterator[tuple[str, ...]]:
    """Yield what to try: with the interval, and without, which not every ping knows.

    `patience` is in whole seconds.
    """
    version = ["-6"] if ":" in address else []
    common = ["ping", *version, "-n", "-c", str(count), "-W", str(max(patience, 1))]
    yield (*common, "-i", f"{max(interval, SHORTEST_INTERVAL):g}", address)
    yield (*common, address)


def parse(said: str) -> list[float] | None:
    """Return the round trips in ms; None: it has measured nothing, such as for an option that it lacks."""
    if _STATISTICS.search(said) is None:
        return [] if _NO_WAY.search(said) else None
    return [float(time) for time in _ANSWER.findall(said)]
