"""The clock of a node, set wrong for the duration of a block."""

from __future__ import annotations

import time
from typing import NamedTuple

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import FaultNotEffective, FaultNotHealed, LabError, NotSupported
from pytest_benchscale.lab.arguments import is_number
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_shell import ask

__all__ = ["ClockOffset"]

_LEAST = 1.0  # seconds; less cannot be told from the time that a command takes to answer
_MOST = 10 * 365 * 86_400.0
_SLACK = 0.25  # seconds

_READ = "date +%s.%N"
_SET = 'date -u -s "@$1" > /dev/null'


class _Reading(NamedTuple):
    """By how many seconds a node's clock is ahead of ours, and how wrong that may be."""

    ahead: float
    error: float


class ClockOffset(Fault):
    """The node's clock is ahead by `offset` seconds during the block; behind, when that is negative."""

    def __init__(self, machine: Machine, offset: float) -> None:
        __tracebackhide__ = True
        if not is_number(offset) or not _LEAST <= abs(offset) <= _MOST:
            raise LabError(
                f"a clock is set wrong by {_LEAST:g} s or more and ten years or less, not by {offset!r}",
                node=machine.name,
                step="fault",
            )
        super().__init__(machine.context, f"clock of {machine.name} off by {offset:+g} s")
        self._machine = machine
        self._offset = offset
        self._before: _Reading | None = None

    async def _make(self) -> None:
        __tracebackhide__ = True
        self._context.require(Capability.CLOCK)
        plan = self._machine.plan
        if plan is not None and plan.spec.existing is not None:
            raise NotSupported(
                self._context.backend.name,
                Capability.CLOCK,
                details=f"node {self._machine.name!r} is an existing machine, whose clock is not ours to set",
            )
        before = await self._read()
        self._before = before
        after = await self._set(before.ahead + self._offset)
        if not self._is_near(after, before, self._offset):
            raise FaultNotEffective(
                f"'{self.what}' has no effect",
                node=self._machine.name,
                step="fault",
                details=f"ahead of ours by {before.ahead:.3f} s before, and {after.ahead:.3f} s after",
            )

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        before = self._before
        if before is None:
            return
        after = await self._set(before.ahead)
        if not self._is_near(after, before, 0.0):
            raise FaultNotHealed(
                f"'{self.what}' is still there",
                node=self._machine.name,
                step="fault",
                details=f"ahead of ours by {before.ahead:.3f} s before, and {after.ahead:.3f} s now",
            )

    @staticmethod
    def _is_near(after: _Reading, before: _Reading, offset: float) -> bool:
        allowed = after.error + before.error + _SLACK
        return abs(after.ahead - before.ahead - offset) <= allowed

    async def _set(self, ahead: float) -> _Reading:
        """Set the node's clock, making up for how long that takes, and return how it is then."""
        begun = time.monotonic()
        await ask(self._machine, "setting the clock", _SET, f"{time.time() + ahead:.6f}")
        late = (time.monotonic() - begun) / 2
        await ask(self._machine, "setting the clock", _SET, f"{time.time() + late + ahead:.6f}")
        return await self._read()

    async def _read(self) -> _Reading:
        begun, clock = time.monotonic(), time.time()
        text = await ask(self._machine, "reading the clock", _READ)
        took = time.monotonic() - begun
        return _Reading(float(text) - (clock + took / 2), took / 2)
