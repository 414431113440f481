"""A fault as a block: made on entering, taken back on leaving, whatever happens in between."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Concatenate, ParamSpec

import anyio

from pytest_benchscale.errors import BenchscaleError, FaultNotHealed, LabError
from pytest_benchscale.lab.block import Block, SyncBlock
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault_log import FaultRecord
from pytest_benchscale.lab.portal import on_portal

__all__ = ["Fault", "SyncFault", "faulty"]

P = ParamSpec("P")

DEADLINE = 60.0
"""Seconds, times the scale, in which a fault is made, or taken back."""


class Fault(Block):
    """A fault of a lab for the duration of an `async with` block; it can be used once.

    `what` tells in words what it is. Until it has ended, it is in the lab's `standing` ones.
    """

    deadline: ClassVar[float] = DEADLINE

    def __init__(self, context: LabContext, what: str) -> None:
        self.what = what
        self._context = context
        self.portal = self._portal = context.portal
        self._record: FaultRecord | None = None

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.what!r}: {'active' if self.is_active else 'not active'}>"
        )

    @property
    def is_active(self) -> bool:
        """Whether the fault was made and not yet taken back."""
        return self in self._context.standing

    @abstractmethod
    async def _make(self) -> None:
        """Make the fault, and see to it that it is there. Runs in the portal."""

    @abstractmethod
    async def _take_back(self) -> None:
        """Take back whatever was made, also of half a fault. Runs in the portal, shielded."""

    @on_portal
    async def begin(self) -> None:
        """Make the fault. What ends this early takes back what there is of it.

        Raises:
            FaultNotEffective: it was made and is not there.
            LabError: it cannot be made.
        """
        __tracebackhide__ = True
        if self._record is not None:
            raise LabError(
                f"the fault '{self.what}' was used before",
                step="fault",
                resolution="make a new one for each block",
            )
        self._record = self._context.faults.begin(self.what)
        self._context.standing[self] = None
        try:
            with anyio.fail_after(self._context.scaled(self.deadline)):
                await self._make()
        except BaseException as exc:
            try:
                await self.finish()
            except BenchscaleError as error:
                exc.add_note(f"while taking it back: {error}")
            if isinstance(exc, TimeoutError):
                raise self._late("made") from None
            raise

    @on_portal
    async def finish(self) -> None:
        """Take the fault back. Safe to call twice; runs to its end also when the caller is cancelled.

        Raises:
            FaultNotHealed: it is still there.
        """
        __tracebackhide__ = True
        if not self.is_active or self._record is None:
            return
        try:
            with (
                anyio.CancelScope(shield=True),
                anyio.fail_after(self._context.scaled(self.deadline)),
            ):
                await self._take_back()
        except TimeoutError:
            raise self._late("taken back") from None
        finally:
            self._context.standing.pop(self, None)
            self._context.faults.end(self._record)

    def _late(self, what: str) -> LabError:
        seconds = self._context.scaled(self.deadline)
        return FaultNotHealed(f"'{self.what}' was not {what} after {seconds:g} s", step="fault")


class SyncFault(SyncBlock[Fault]):
    """A fault for a `with` block; see `Fault`."""


def faulty(make: Callable[Concatenate[Any, P], Fault]) -> Callable[Concatenate[Any, P], SyncFault]:
    """Return the twin of a method that makes faults, for a facade's class: `with`, not `async with`."""

    @functools.wraps(make)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> SyncFault:
        __tracebackhide__ = True
        return SyncFault(make(self._wrapped, *args, **kwargs))

    return call
