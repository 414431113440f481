"""What a nemesis does, drawn from a seed: which fault, at whom, after which pause and for how long.

The draws depend on the seed, the names of faults and nodes and the two ranges of seconds, and on
nothing that a lab answers. So the same seed gives the same schedule, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.arguments import did_you_mean, is_number
from pytest_benchscale.lab.chance import below, between, choose, seeded
from pytest_benchscale.lab.shapes import SHAPES, shape

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab

__all__ = [
    "FAULTS",
    "FaultMaker",
    "PlannedFault",
    "Seconds",
    "check_faults",
    "check_seconds",
    "schedule",
]

FaultMaker = Callable[["Lab", Random], AbstractAsyncContextManager[Any]]
"""Makes a fault of one's own: a lab and chance of its own in, an async context manager out."""

Seconds = float | tuple[float, float]
"""A number of seconds, or a range to draw from."""

_SEEDS = 1 << 32
_SLOW_MS = (50, 500)  # the latencies of "slow"


@dataclass(frozen=True, slots=True, eq=False)
class PlannedFault:
    """One step of a schedule: `pause` seconds without a fault, then one that is held for `hold`.

    `fault` is its name, `text` says what it is and at whom. `make` makes it in a lab.
    """

    number: int
    fault: str
    text: str
    pause: float
    hold: float
    make: Callable[[Lab], AbstractAsyncContextManager[Any]]

    def __str__(self) -> str:
        return f"{self.number}. {self.text} for {self.hold:.2f} s, after {self.pause:.2f} s"


Drawn = tuple[str, Callable[["Lab"], AbstractAsyncContextManager[Any]]]


def schedule(
    seed: int,
    faults: Sequence[str | FaultMaker],
    nodes: Sequence[str],
    *,
    interval: Seconds,
    hold: Seconds,
) -> Iterator[PlannedFault]:
    """Yield the steps of a nemesis, without end; `nodes` are the lab's, in file order.

    Raises:
        LabError: faults, nodes or seconds make no sense.
    """
    check_faults(faults, nodes)
    pauses, holds = check_seconds("interval", interval), check_seconds("hold", hold)
    return _steps(seeded(seed), tuple(faults), tuple(nodes), pauses, holds)


def _steps(
    rng: Random,
    faults: Sequence[str | FaultMaker],
    nodes: Sequence[str],
    pauses: tuple[float, float],
    holds: tuple[float, float],
) -> Iterator[PlannedFault]:
    number = 0
    while True:
        number += 1
        pause, held = between(rng, *pauses), between(rng, *holds)
        fault = choose(rng, faults)
        # Chance of its own, so that a fault which draws more does not change those that follow.
        own = seeded(below(rng, _SEEDS))
        text, make = _draw(fault, own, nodes)
        yield PlannedFault(number, _name(fault), text, pause, held, make)


def _draw(fault: str | FaultMaker, rng: Random, nodes: Sequence[str]) -> Drawn:
    if not isinstance(fault, str):
        maker = fault
        return _name(fault), lambda lab: maker(lab, rng)
    return FAULTS[fault].draw(rng, nodes)


def _pause(rng: Random, nodes: Sequence[str]) -> Drawn:
    node = choose(rng, nodes)
    return f"pause {node}", lambda lab: lab[node].paused()


def _kill(rng: Random, nodes: Sequence[str]) -> Drawn:
    node = choose(rng, nodes)
    return f"kill {node}", lambda lab: lab[node].killed()


def _stop(rng: Random, nodes: Sequence[str]) -> Drawn:
    node = choose(rng, nodes)
    return f"stop {node}", lambda lab: lab[node].stopped()


def _slow(rng: Random, nodes: Sequence[str]) -> Drawn:
    node, latency = choose(rng, nodes), round(between(rng, *_SLOW_MS))
    return f"slow {node} by {latency} ms", lambda lab: lab[node].impair(latency_ms=latency)


def _partition(rng: Random, nodes: Sequence[str]) -> Drawn:
    fitting = [name for name, kind in SHAPES.items() if len(nodes) >= kind.least]
    return _cut(choose(rng, fitting))(rng, nodes)


def _cut(name: str) -> Callable[[Random, Sequence[str]], Drawn]:
    def draw(rng: Random, nodes: Sequence[str]) -> Drawn:
        seed = below(rng, _SEEDS)
        made = shape(name, nodes, seed=seed)
        return f"partition {made}", lambda lab: lab.partition(name, seed=seed)

    return draw


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault that has a name: what the backend must be able to do, and how many nodes it takes."""

    draw: Callable[[Random, Sequence[str]], Drawn]
    capability: Capability
    least: int = 1


FAULTS = {
    "pause": Kind(_pause, Capability.PAUSE),
    "kill": Kind(_kill, Capability.STOP),
    "stop": Kind(_stop, Capability.STOP),
    "slow": Kind(_slow, Capability.CONDITIONS),
    "partition": Kind(_partition, Capability.PARTITIONS, 2),
} | {name: Kind(_cut(name), Capability.PARTITIONS, kind.least) for name, kind in SHAPES.items()}
"""The faults that a nemesis knows by name; "partition" is any of the shapes that follow it."""


def check_faults(faults: Sequence[str | FaultMaker], nodes: Sequence[str]) -> None:
    """Check that a nemesis has faults to choose from and nodes for them.

    Raises:
        LabError: it has none, or not enough, or one that nobody knows.
    """
    __tracebackhide__ = True
    if isinstance(faults, str) or not faults:
        raise LabError(
            f"a nemesis needs a list of faults, not {faults!r}",
            step="nemesis",
            details=f"those with a name: {', '.join(FAULTS)}",
            resolution="for example faults=['pause', 'bisect']; a function (lab, rng) that returns an async "
            "context manager is one, too",
        )
    for fault in faults:
        if callable(fault):
            continue
        if fault not in FAULTS:
            raise LabError(
                f"a nemesis knows no fault {fault!r}{did_you_mean(fault, FAULTS)}",
                step="nemesis",
                details=f"those with a name: {', '.join(FAULTS)}",
            )
        if len(nodes) < FAULTS[fault].least:
            raise LabError(
                f"the fault {fault!r} needs {FAULTS[fault].least} nodes or more: there are {len(nodes)}",
                step="nemesis",
                resolution="leave this fault out, or give the topology more nodes",
            )


def check_seconds(name: str, value: Seconds) -> tuple[float, float]:
    """Return a range of seconds; a single number is one from itself to itself.

    Raises:
        LabError: it is neither, or negative, or upside down.
    """
    __tracebackhide__ = True
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    if not (is_number(low) and is_number(high)) or not 0 <= low <= high:
        raise LabError(
            f"{name} is a number of seconds or a pair (lowest, highest), not {value!r}",
            step="nemesis",
        )
    return low, high


def _name(fault: str | FaultMaker) -> str:
    return fault if isinstance(fault, str) else getattr(fault, "__name__", repr(fault))
