"""What must hold all the time, looked at again and again while a block runs."""

from __future__ import annotations

import functools
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from pytest_benchscale.errors import InvariantViolated, LabError
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault_log import FaultRecord

__all__ = ["Always", "Check", "SyncAlways", "SyncCheck"]

SyncCheck = Callable[[], object]
"""Returns something false or raises `AssertionError` when violated; None is fine."""

Check = Callable[[], object | Awaitable[object]]
"""The same, and may be async."""


class _Invariant:
    """What is known of a check so far, and whether a violation has lasted for too long."""

    def __init__(self, check: Check, every: float, grace: float, timeout: float) -> None:
        __tracebackhide__ = True
        if not callable(check):
            raise LabError(
                f"what is always to hold is a function without arguments, not {check!r}",
                step="always",
                resolution="hand over the function itself: lab.always(check), not lab.always(check())",
            )
        for name, value, least in (
            ("every", every, 0),
            ("grace", grace, 0),
            ("timeout", timeout, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise LabError(f"{name} is a number of seconds, not {value!r}", step="always")
            if math.isnan(value) or value < least or (value == 0 and name != "grace"):
                raise LabError(f"{name} cannot be {value:g} s", step="always")
        self.check = check
        self.every = every
        self.grace = grace
        self.timeout = timeout
        self.name = getattr(check, "__qualname__", repr(check)).replace(".<locals>", "")
        self.held = time.time()  # when it was last seen to hold
        self.cause: BaseException | None = None
        self._answer = ""
        self._since: float | None = None  # time.monotonic() of the first violation in a row
        self._first = 0.0  # the same as time.time()

    @property
    def is_violated(self) -> bool:
        """Whether it did not hold when it was last looked at."""
        return self._since is not None

    @property
    def has_lasted(self) -> bool:
        """Whether it has been violated for longer than the grace."""
        return self._since is not None and time.monotonic() - self._since >= self.grace

    def judge(self, asked: tuple[float, float], answer: object) -> None:
        """Take note of what the check has returned; `asked` is when, by both clocks."""
        if answer is None or bool(answer):
            self._since, self.held = None, asked[1]
        else:
            self._violate(asked, f"it returned {answer!r}", None)

    def judge_error(self, asked: tuple[float, float], error: AssertionError) -> None:
        """Take note of what the check has raised."""
        self._violate(asked, f"{type(error).__name__}: {error}", error)

    def judge_silence(self, asked: tuple[float, float]) -> None:
        """Take note of a check that did not come back."""
        self._violate(asked, f"it did not come back within {self.timeout:g} s", None)

    def _violate(
        self, asked: tuple[float, float], answer: str, cause: BaseException | None
    ) -> None:
        self._answer, self.cause = answer, cause
        if self._since is None:
            self._since, self._first = asked

    def error(self, faults: tuple[FaultRecord, ...]) -> InvariantViolated:
        """Return what to raise, with the faults that were there since the check last held."""
        lasted = time.monotonic() - (self._since or 0.0)
        listed = "\n".join(f"  {fault}" for fault in faults) or "  (none)"
        return InvariantViolated(
            f"{self.name} was violated for {lasted:.1f} s, since {_clock(self._first)}: {self._answer}",
            step="always",
            details=f"it last held at {_clock(self.held)}; the faults that were active since then:\n"
            f"{listed}",
        )

    def still_violated(self) -> str:
        """Return what to note on a failure that came before the grace was over."""
        return f"at that time {self.name} was violated, since {_clock(self._first)}: {self._answer}"


class Always:
    """Looks at a check while its `async with` block runs; `Lab.always` makes it.

    The check runs in the event loop of the block, and the block is cancelled when it is violated
    for too long.
    """

    def __init__(
        self, context: LabContext, check: Check, *, every: float, grace: float, timeout: float
    ) -> None:
        __tracebackhide__ = True
        self.context = context
        self.invariant = _Invariant(check, every, grace, timeout)
        self._group: TaskGroup | None = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Always {self.invariant.name}>"

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        if self._group is not None:
            raise LabError("this lab.always(...) was used before", step="always")
        self.invariant.held = time.time()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._watch, self._group)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        __tracebackhide__ = True
        group = self._group
        if group is None:
            return None
        group.cancel_scope.cancel()
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        if cancelled:
            # Ours is swallowed here; anybody else's goes on.
            swallowed = await group.__aexit__(exc_type, exc, traceback)
            if not swallowed:
                return None
        else:
            await group.__aexit__(None, None, None)
        if exc is None and self._error is None:
            await self._look_a_last_time()
        if exc is not None and not cancelled:
            self._note(exc)
            return None
        if self._error is not None:
            _pass_notes(exc, self._error)
            raise self._error from self.invariant.cause
        return None

    def _note(self, exc: BaseException) -> None:
        """Tell on the failure of the block itself what is known of the check."""
        if self._error is not None:
            exc.add_note(f"and also {type(self._error).__name__}: {self._error}")
        elif self.invariant.is_violated:
            exc.add_note(self.invariant.still_violated())

    async def _watch(self, group: TaskGroup) -> None:
        """Look until the violation has lasted, then end the block."""
        while await self._is_fine():  # noqa: ASYNC110  there is no event: one has to look
            await anyio.sleep(self.invariant.every)
        group.cancel_scope.cancel()

    async def _look_a_last_time(self) -> None:
        """Look once more at the block's end; a violation has its grace there, too."""
        while await self._is_fine() and self.invariant.is_violated:  # noqa: ASYNC110  as above
            await anyio.sleep(min(self.invariant.every, self.invariant.grace))

    async def _is_fine(self) -> bool:
        """Look once; return whether there is nothing to raise, else `_error` has it."""
        invariant = self.invariant
        asked = (time.monotonic(), time.time())
        try:
            with anyio.move_on_after(invariant.timeout) as scope:
                answer = invariant.check()
                if inspect.isawaitable(answer):
                    answer = await answer
            if scope.cancelled_caught:
                invariant.judge_silence(asked)
            else:
                invariant.judge(asked, answer)
        except AssertionError as exc:
            invariant.judge_error(asked, exc)
        except Exception as exc:  # noqa: BLE001  the check itself is wrong: raised at the block's end
            exc.add_note(f"in {invariant.name}, which lab.always(...) looks at")
            self._error = exc
            return False
        if not invariant.has_lasted:
            return True
        faults = await self.context.portal.call(_faults_since, self.context, invariant.held)
        self._error = invariant.error(faults)
        return False


class SyncAlways:
    """Looks at a check, in a thread of its own, while its `with` block runs; `lab.sync.always` makes it.

    The block goes on when the check is violated for too long; its end raises.
    """

    def __init__(self, always: Always) -> None:
        __tracebackhide__ = True
        self._context = always.context
        self._invariant = always.invariant
        if inspect.iscoroutinefunction(self._invariant.check):
            raise LabError(
                f"lab.sync.always takes a plain function, and {self._invariant.name} is async",
                step="always",
                resolution="use `async with lab.always(...)` in an async test",
            )
        self._over = threading.Event()
        self._last = False  # the block was left without an error: look a last time
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<SyncAlways {self._invariant.name}>"

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._thread is not None:
            raise LabError("this lab.sync.always(...) was used before", step="always")
        self._invariant.held = time.time()
        name = f"always {self._invariant.name}"
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        thread, invariant = self._thread, self._invariant
        if thread is None:
            return
        self._last = exc is None
        self._over.set()
        thread.join(2 * invariant.timeout + invariant.grace)
        if thread.is_alive():
            self._error = LabError(
                f"{invariant.name} does not come back",
                step="always",
                resolution="give what it waits for a timeout; a thread cannot be ended from outside",
            )
        if exc is not None:
            if self._error is not None:
                exc.add_note(f"and also {type(self._error).__name__}: {self._error}")
            elif invariant.is_violated:
                exc.add_note(invariant.still_violated())
        elif self._error is not None:
            raise self._error from invariant.cause

    def _watch(self) -> None:
        while not self._over.is_set() and self._is_fine():
            self._over.wait(self._invariant.every)
        while self._last and self._is_fine() and self._invariant.is_violated:
            time.sleep(min(self._invariant.every, self._invariant.grace))

    def _is_fine(self) -> bool:
        if self._error is not None:
            return False
        invariant = self._invariant
        asked = (time.monotonic(), time.time())
        try:
            answer = invariant.check()
            if time.monotonic() - asked[0] > invariant.timeout:
                invariant.judge_silence(asked)
            else:
                invariant.judge(asked, answer)
        except AssertionError as exc:
            invariant.judge_error(asked, exc)
        except Exception as exc:  # noqa: BLE001  the check itself is wrong: raised at the block's end
            exc.add_note(f"in {invariant.name}, which lab.sync.always(...) looks at")
            self._error = exc
            return False
        if not invariant.has_lasted:
            return True
        look_up = functools.partial(_faults_since, self._context, invariant.held)
        self._error = invariant.error(self._context.portal.call_blocking(look_up))
        return False


async def _faults_since(context: LabContext, moment: float) -> tuple[FaultRecord, ...]:
    """Return the faults that were active at a moment or later; runs where they are written down."""
    return context.faults.since(moment)


def _pass_notes(exc: BaseException | None, error: Exception) -> None:
    """Keep what others have noted on the cancellation that ends here, such as a nemesis' seed."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        for note in getattr(exc, "__notes__", ()):
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        exc = exc.__context__


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment)) + f"{moment % 1:.3f}"[1:]
