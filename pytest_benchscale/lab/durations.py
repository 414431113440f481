"""How long something shall last, as people write it: `30m`, `8h`, `2d`."""

from __future__ import annotations

import re

from pytest_benchscale.errors import BenchscaleError

__all__ = ["parse_duration"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400  # seconds


def parse_duration(place: str, text: str) -> float:
    """Return the seconds that a text means; `place` tells where it was written.

    Raises:
        BenchscaleError: it means none, or more than a year; one line.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST:
        raise BenchscaleError(
            f"{place}: {text!r} is not a time of up to a year, such as 30m, 8h or 2d"
        )
    return seconds
