"""Faults in the background of a test, one after the other, as a seed decides."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import LabError, NotSupported
from pytest_benchscale.lab.block import Block, SyncBlock
from pytest_benchscale.lab.chance import check_seed, draw_seed
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.portal import on_portal
from pytest_benchscale.lab.schedule import (
    FAULTS,
    FaultMaker,
    PlannedFault,
    Seconds,
    check_faults,
    check_seconds,
    schedule,
)

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab

__all__ = ["Nemesis", "NemesisStep", "SyncNemesis"]

_FINISH_DEADLINE = 700.0  # seconds; a machine that was killed may have to boot
_CLEANUP_DEADLINE = 60.0
_ASK_DEADLINE = 30.0


@dataclass(slots=True, eq=False)
class NemesisStep:
    """A fault of the schedule whose turn came: when it was begun, was there, and was gone again.

    The moments are those of `time.time()`, None for what has not come or never did.
    """

    planned: PlannedFault
    begun: float
    there: float | None = None
    gone: float | None = None

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.begun))
        if self.there is None:
            state = "never there"
        elif self.gone is None:
            state = "not taken back"
        else:
            state = f"{self.gone - self.there:.2f} s"
        return f"{clock} {self.planned}  [{state}]"


class Nemesis(Block):
    """Makes faults while its `async with` block runs; `Lab.nemesis` makes it.

    `seed` decides everything and is printed; when the block fails, seed and schedule are notes on
    its error. `steps` are the faults so far; none is added once there is an `error`.
    """

    def __init__(
        self,
        lab: Lab,
        context: LabContext,
        *,
        seed: int | None,
        faults: Sequence[str | FaultMaker],
        interval: Seconds,
        hold: Seconds,
    ) -> None:
        __tracebackhide__ = True
        check_seed(seed, "nemesis")
        nodes = tuple(lab.nodes)
        check_faults(faults, nodes)
        check_seconds("interval", interval)
        check_seconds("hold", hold)
        self.seed = draw_seed() if seed is None else seed
        self._lab = lab
        self._context = context
        self.portal = self._portal = context.portal
        self._faults = tuple(faults)
        self._plan = schedule(self.seed, self._faults, nodes, interval=interval, hold=hold)
        self._steps: list[NemesisStep] = []
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<Nemesis of {self._lab.name!r}: seed {self.seed}, {len(self._steps)} faults so far>"
        )

    @property
    def steps(self) -> tuple[NemesisStep, ...]:
        """The faults whose turn has come, oldest first."""
        return tuple(self._steps)

    @property
    def error(self) -> BaseException | None:
        """What has ended the nemesis early, such as a fault without effect; the block's end raises it."""
        task = self._task
        return task.exception() if task and task.done() and not task.cancelled() else None

    @property
    def report(self) -> str:
        """Seed and schedule so far, as a failing test shows them."""
        lines = [f"nemesis with seed={self.seed}, which replays this schedule:"]
        lines += [f"  {step}" for step in self.steps] or ["  (no fault so far)"]
        return "\n".join(lines)

    @on_portal
    async def begin(self) -> None:
        """Begin with the first pause: what entering the block does.

        Raises:
            NotSupported: the backend lacks what one of the faults needs; none was made.
        """
        __tracebackhide__ = True
        if self._task is not None:
            raise LabError(
                "the nemesis was used before",
                step="nemesis",
                resolution="make a new one for each block",
            )
        await self._require()
        print(f"nemesis of lab {self._lab.name!r}: seed={self.seed}")
        self._task = asyncio.create_task(self._run())

    @on_portal
    async def finish(self) -> None:
        """End the fault of now, and wait until it is gone: what leaving the block does.

        Raises:
            Exception: what ended the nemesis early; or LabError, that it cannot be ended.
        """
        __tracebackhide__ = True
        task = self._task
        self._over.set()
        if task is None:
            return
        deadline = self._context.scaled(_FINISH_DEADLINE)
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=deadline)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CLEANUP_DEADLINE)
                raise LabError(
                    f"the fault of a nemesis was not gone after {deadline:g} s",
                    step="nemesis",
                    details=self.report,
                )
        if task.cancelled():
            raise LabError("the nemesis was cut short", step="nemesis", details=self.report)
        if self.error is not None:
            raise self.error

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            await self.finish()
        except anyio.get_cancelled_exc_class() as cut:  # the fault is gone all the same
            self.tell(cut)
            raise
        except Exception as error:  # noqa: BLE001  it is raised, or told beside what the test found
            self.surface(error, exc)
        else:
            self.tell(exc)

    def surface(self, error: Exception, exc: BaseException | None) -> None:
        """Raise what ended the nemesis, unless the block has failed by itself: then note it there."""
        __tracebackhide__ = True
        if exc is None:
            self.tell(error)
            raise error
        exc.add_note(f"and the nemesis ended with {type(error).__name__}: {error}")
        self.tell(exc)

    def tell(self, exc: BaseException | None) -> None:
        """Note seed and schedule on the error that leaves the block."""
        if exc is not None:
            exc.add_note(self.report)

    async def _require(self) -> None:
        """Check that the backend can do all of it, before any fault."""
        __tracebackhide__ = True
        backend = self._context.backend
        for fault in self._faults:
            if isinstance(fault, str):
                self._context.require(FAULTS[fault].capability)
        if "slow" in self._faults and not await self._context.ask(
            backend.has_netem, deadline=_ASK_DEADLINE, node=None, step="nemesis"
        ):
            raise NotSupported(
                backend.name,
                Capability.CONDITIONS,
                details="the fault 'slow' needs the kernel's module sch_netem, which is not there",
                resolution="leave 'slow' out of faults=[...]",
            )

    async def _run(self) -> None:
        for planned in itertools.takewhile(lambda _: not self._over.is_set(), self._plan):
            if await self._is_over_within(planned.pause):
                return
            step = NemesisStep(planned, time.time())
            self._steps.append(step)
            async with planned.make(self._lab):
                step.there = time.time()
                await self._is_over_within(planned.hold)
            step.gone = time.time()

    async def _is_over_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._over.wait()
        return self._over.is_set()


class SyncNemesis(SyncBlock[Nemesis]):
    """A nemesis for a `with` block; see `Nemesis`."""

    @property
    def seed(self) -> int:
        """What decides everything."""
        return self._wrapped.seed

    @property
    def steps(self) -> tuple[NemesisStep, ...]:
        """The faults whose turn has come, oldest first."""
        return self._wrapped.steps

    @property
    def error(self) -> BaseException | None:
        """What has ended the nemesis early; the block's end raises it."""
        return self._wrapped.error

    @property
    def report(self) -> str:
        """Seed and schedule so far, as a failing test shows them."""
        return self._wrapped.report

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            self._portal.call_blocking(self._wrapped.finish)
        except Exception as error:  # noqa: BLE001  it is raised, or told beside what the test found
            self._wrapped.surface(error, exc)
        else:
            self._wrapped.tell(exc)
