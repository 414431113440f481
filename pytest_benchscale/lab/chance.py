"""Chance that can be replayed: draws that a seed decides, the same on every Python version.

Of `random.Random`, only the sequence of `random()` is promised to stay as it is from version to
version; `shuffle`, `choice` and `randrange` are not. So everything here is made of `random()`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from pytest_benchscale.errors import LabError

__all__ = ["below", "between", "check_seed", "choose", "draw_seed", "seeded", "shuffled"]

T = TypeVar("T")

_SEEDS = 1_000_000  # a drawn seed is to be read in a report and typed again


def check_seed(seed: object, step: str) -> None:
    """Check that a seed is None or a whole number.

    Raises:
        LabError: it is not.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise LabError(
            f"a seed is a whole number or None, not {seed!r}",
            step=step,
            resolution="give the seed that a failed run has printed, or none, to have one drawn",
        )


def draw_seed() -> int:
    """Return a seed that nobody chose: six digits at most."""
    return random.SystemRandom().randrange(_SEEDS)


def seeded(seed: int) -> random.Random:
    """Return chance that the seed decides."""
    return random.Random(seed)  # noqa: S311  nothing is kept secret with it


def below(rng: random.Random, limit: int) -> int:
    """Return a whole number of 0 to `limit` - 1."""
    return int(rng.random() * limit)


def between(rng: random.Random, low: float, high: float) -> float:
    """Return a number of `low` to `high`. Draws once also where these are equal."""
    return low + (high - low) * rng.random()


def choose(rng: random.Random, items: Sequence[T]) -> T:
    """Return one of some items."""
    return items[below(rng, len(items))]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """Return the items in another order (Fisher and Yates)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = below(rng, last + 1)
        order[last], order[other] = order[other], order[last]
    return order
