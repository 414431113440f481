"""What a lab and its nodes share, and how they ask the backend for something."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from pytest_benchscale.backends.base import Backend, Capability
from pytest_benchscale.errors import LabError, NotSupported
from pytest_benchscale.lab.fault_log import FaultLog
from pytest_benchscale.lab.history import History
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal

if TYPE_CHECKING:
    from pytest_benchscale.lab.fault import Fault

__all__ = ["LabContext"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LabContext:
    """The same for all nodes of a lab."""

    portal: Portal
    backend: Backend
    options: LabOptions
    history: History = field(default_factory=History)
    faults: FaultLog = field(default_factory=FaultLog)
    standing: dict[Fault, None] = field(default_factory=dict)  # the faults of now, oldest first

    def scaled(self, seconds: float) -> float:
        """Return a deadline of ours as it is on this machine."""
        return seconds * self.options.timeout_scale

    def require(self, capability: Capability) -> None:
        """Check that the backend has a capability.

        Raises:
            NotSupported: it has not.
        """
        if capability not in self.backend.capabilities:
            raise NotSupported(self.backend.name, capability)

    @contextmanager
    def doing(self, node: str | None, step: str) -> Iterator[None]:
        """Tell who watches that the block is a step of a node, or (None) of the lab."""
        steps = self.options.steps
        if steps is None:
            yield
            return
        steps.began(node, step)
        try:
            yield
        finally:
            steps.ended(node, step)

    async def ask(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        deadline: float,
        node: str | None,
        step: str,
    ) -> T:
        """Let the backend do something within `deadline` seconds, times the scale.

        Raises:
            LabError: it did not, or the system refused.
        """
        place = f" of node {node!r}" if node else ""
        seconds = self.scaled(deadline)
        try:
            with anyio.move_on_after(seconds):
                return await work()
        except OSError as exc:
            raise LabError(f"{step}{place} failed: {exc}", node=node, step=step) from exc
        raise LabError(
            f"{step}{place} was not done after {seconds:g} s",
            node=node,
            step=step,
            resolution="on a slow machine, give more time with --benchscale-timeout-scale",
        )
