"""Processes of ours that take a node's memory or processors for the duration of a block."""

from __future__ import annotations

import math
from typing import ClassVar

import anyio

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import (
    BenchscaleError,
    FaultNotEffective,
    FaultNotHealed,
    LabError,
    NotSupported,
)
from pytest_benchscale.lab.arguments import is_number, is_whole
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_shell import ask, script_command
from pytest_benchscale.lab.process import Process

__all__ = ["CpuPressure", "MemoryPressure"]

_MOST_WORKERS = 256
_TURN_DEADLINE = 30.0  # seconds
_END_DEADLINE = 10.0

# `tail` keeps the last line, and there is only one: everything that it is given, in its memory.
_HOLD_MEMORY = """
{ head -c "$1" /dev/zero; echo filled >&2; exec sleep 100000000 2>/dev/null; } | tail > /dev/null 2>&1 &
echo "pids $!"
wait $!
"""

_BURN = """
pids= number=0
while [ "$number" -lt "$1" ]; do
    (while :; do :; done) > /dev/null 2>&1 &
    pids="$pids $!" number=$((number + 1))
done
echo "pids$pids"
wait
"""

_RESIDENT = """
while read -r name value unit; do
    [ "$name" != VmRSS: ] || echo "$value"
done < "/proc/$1/status"
"""

# proc(5): behind the command's name, utime is the twelfth field and stime the thirteenth.
_CPU_TIME = """
for pid; do
    read -r line < "/proc/$pid/stat" || exit 1
    set -- ${line##*)}
    echo $((${12} + ${13}))
done
"""

_ALIVE = 'for pid; do [ ! -d "/proc/$pid" ] || echo "$pid"; done'


class _Pressure(Fault):
    """A process with children in the node, which take something away; it ends with the block."""

    deadline: ClassVar[float] = 180.0

    def __init__(self, machine: Machine, what: str, script: str, argument: int) -> None:
        super().__init__(machine.context, what)
        self._machine = machine
        self._process = Process(machine, what, script_command(script, str(argument)), stdin=False)
        self._begun = False
        self._pids: list[str] = []

    async def _begin(self) -> None:
        self._begun = True
        await self._process.begin()
        said = await self._process.wait_for_line(r"^pids (.*)$", self._context.scaled(30))
        self._pids = said[1].split()

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        if not self._begun:
            return
        await self._process.finish()
        left = "?"
        with anyio.move_on_after(self._context.scaled(_END_DEADLINE)):
            # What was killed is gone once the node's first process has taken note of it.
            while left := await self._alive():  # noqa: ASYNC110  it does not tell
                await anyio.sleep(0.02)
            return
        raise FaultNotHealed(
            f"'{self.what}' is still there: its processes run on",
            node=self._machine.name,
            step="fault",
            details=f"PIDs in the node: {', '.join(left.split())}",
        )

    async def _alive(self) -> str:
        return await ask(self._machine, "looking for processes", _ALIVE, *self._pids)

    def _without_effect(self, measured: str) -> FaultNotEffective:
        return FaultNotEffective(
            f"'{self.what}' has no effect: {measured}", node=self._machine.name, step="fault"
        )


class MemoryPressure(_Pressure):
    """A process that holds a share of the memory that the node is declared to have."""

    def __init__(self, machine: Machine, memory_mb: int | None, percent: float) -> None:
        __tracebackhide__ = True
        if not is_number(percent) or not 0 < percent <= 100:
            raise LabError(
                f"the memory to be held is more than 0 and at most 100 percent, not {percent!r}",
                node=machine.name,
                step="fault",
            )
        self._declared_mb = memory_mb
        self._bytes = int((memory_mb or 0) * (1 << 20) * percent / 100)
        what = f"memory pressure of {percent:g} % on {machine.name}"
        super().__init__(machine, what, _HOLD_MEMORY, self._bytes)

    async def _make(self) -> None:
        __tracebackhide__ = True
        _require_limit(self._machine, Capability.MEMORY_LIMIT, "memory_mb", self._declared_mb)
        await self._begin()
        try:
            await self._process.wait_for_line("^filled$", self._context.scaled(120))
        except LabError as exc:  # the kernel has ended it, since there was not so much
            raise self._without_effect(f"its process has ended\n{exc}") from exc
        resident = await ask(self._machine, "measuring memory", _RESIDENT, self._pids[0])
        if int(resident or 0) << 10 < 0.9 * self._bytes:
            raise self._without_effect(
                f"{resident or 0} KiB are held instead of {self._bytes >> 10}"
            )


class CpuPressure(_Pressure):
    """Processes that do nothing but compute, one for each processor."""

    def __init__(self, machine: Machine, vcpus: float | None, workers: int | None) -> None:
        __tracebackhide__ = True
        if workers is not None and not (is_whole(workers) and 1 <= workers <= _MOST_WORKERS):
            raise LabError(
                f"workers are a whole number of 1 to {_MOST_WORKERS}, not {workers!r}",
                node=machine.name,
                step="fault",
            )
        if workers is None and vcpus is None:
            raise LabError(
                f"it is not known how many processors node {machine.name!r} has",
                node=machine.name,
                step="fault",
                resolution="declare `vcpus:` for it, or say how many: cpu_pressure(workers=2)",
            )
        self._workers = math.ceil(vcpus or 1) if workers is None else workers
        what = f"CPU pressure of {self._workers} workers on {machine.name}"
        super().__init__(machine, what, _BURN, self._workers)

    async def _make(self) -> None:
        __tracebackhide__ = True
        await self._begin()
        before = await self._cpu_time()
        with anyio.move_on_after(self._context.scaled(_TURN_DEADLINE)):
            # A tick is 10 ms, and a worker may have to wait for its turn.
            while sum(await self._cpu_time()) <= sum(before):  # noqa: ASYNC110  the kernel does not tell
                await anyio.sleep(0.02)
            return
        raise self._without_effect("its processes were given no time to compute")

    async def _cpu_time(self) -> list[int]:
        try:
            text = await ask(self._machine, "measuring CPU time", _CPU_TIME, *self._pids)
        except BenchscaleError as exc:
            raise self._without_effect(f"its processes have ended\n{exc}") from exc
        return [int(ticks) for ticks in text.split()]


def _require_limit(
    machine: Machine, capability: Capability, key: str, declared: float | None
) -> None:
    """Check that a node has a limit, and that it is held to it: else all nodes would be under pressure."""
    __tracebackhide__ = True
    backend = machine.context.backend
    if capability not in backend.capabilities:
        raise NotSupported(
            backend.name,
            capability,
            details="pressure stays within the node's own limit, and here it has none",
        )
    if declared is None:
        raise LabError(
            f"node {machine.name!r} has no limit to put pressure on",
            node=machine.name,
            step="fault",
            resolution=f"declare `{key}:` for it",
        )
