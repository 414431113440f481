"""What goes on in the background of a test: methods of `Lab` and of its twin without `await`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pytest_benchscale.lab.always import Always, Check, SyncAlways, SyncCheck
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.nemesis import Nemesis, SyncNemesis
from pytest_benchscale.lab.schedule import FaultMaker, Seconds

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab

__all__ = ["Background", "SyncBackground"]


class Background:
    """What a lab does while the body of an `async with` block runs."""

    _context: LabContext

    def nemesis(
        self,
        *,
        faults: Sequence[str | FaultMaker],
        seed: int | None = None,
        interval: Seconds = (1.0, 3.0),
        hold: Seconds = (1.0, 3.0),
    ) -> Nemesis:
        """Make faults in the background of an `async with` block, one after the other.

        `faults` are to be chosen from, more often what is named more often: "pause", "kill", "stop",
        "slow" (50 to 500 ms of latency), "partition" (any shape), "isolate", "bisect", "split_one",
        "majorities_ring", "bridge", or a function `(lab, rng)` that returns an async context manager,
        entered and left in the lab's own event loop. `interval` is the pause before each, `hold` how
        long it is there, in seconds: a number, or (lowest, highest) to draw from. The same `seed`
        replays the same schedule; without one it is drawn. It is printed, and noted with the
        schedule on the error that leaves the block.

        Leaving the block takes the fault of now back, and raises what has ended the nemesis early: its
        `error`, which who waits for one of its `steps` has to look at, too.

        Raises:
            LabError: a fault is not known, needs more nodes, or seconds make no sense.
            NotSupported: on entering, before any fault: the backend lacks what one of them needs.
        """
        __tracebackhide__ = True
        return Nemesis(
            cast("Lab", self), self._context, seed=seed, faults=faults, interval=interval, hold=hold
        )

    def always(
        self, check: Check, *, every: float = 0.2, grace: float = 1.0, timeout: float = 10.0
    ) -> Always:
        """Look at a check again and again while an `async with` block runs, and once at its end.

        `check` takes nothing, is async or plain, and runs in the block's own event loop. It is violated
        when it returns something false other than None, raises `AssertionError`, or does not come back
        within `timeout` seconds. It is looked at `every` so many seconds. A violation that lasts for
        `grace` seconds ends the block, which is cancelled where it waits.

        Raises:
            InvariantViolated: at the block's end; tells since when, and which faults were active.
            Exception: any other that the check has raised: it ends the block, too.
        """
        __tracebackhide__ = True
        return Always(self._context, check, every=every, grace=grace, timeout=timeout)


class SyncBackground:
    """The same for a `with` block."""

    _wrapped: Lab

    def always(
        self, check: SyncCheck, *, every: float = 0.2, grace: float = 1.0, timeout: float = 10.0
    ) -> SyncAlways:
        """Look at a check, in a thread, while a `with` block runs, and once at its end; see `Lab.always`.

        The block is not interrupted: its end raises.
        """
        __tracebackhide__ = True
        return SyncAlways(self._wrapped.always(check, every=every, grace=grace, timeout=timeout))

    def nemesis(
        self,
        *,
        faults: Sequence[str | FaultMaker],
        seed: int | None = None,
        interval: Seconds = (1.0, 3.0),
        hold: Seconds = (1.0, 3.0),
    ) -> SyncNemesis:
        """Make faults in the background of a `with` block; see `Lab.nemesis`."""
        __tracebackhide__ = True
        return SyncNemesis(
            self._wrapped.nemesis(faults=faults, seed=seed, interval=interval, hold=hold)
        )
