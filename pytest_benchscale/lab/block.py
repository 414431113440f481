"""What lasts as long as an `async with` block, whichever loop that is in, or a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.portal import Portal

__all__ = ["Block", "SyncBlock"]


class Block(ABC):
    """Begins when the block is entered, and has finished when it is left."""

    portal: Portal

    @abstractmethod
    async def begin(self) -> None:
        """Begin. May be called from any loop."""

    @abstractmethod
    async def finish(self) -> None:
        """End what has begun, also half of it. May be called from any loop; safe to call twice."""

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        try:
            await self.begin()
        except GeneratorExit:  # the caller's loop is gone
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.finish()  # it may have begun all the same
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            await self.finish()
        except BenchscaleError as error:
            if exc is None:
                raise
            exc.add_note(f"and afterwards: {error}")  # what the test has found comes first


B = TypeVar("B", bound=Block)


class SyncBlock(Generic[B]):
    """The same for a `with` block."""

    def __init__(self, block: B) -> None:
        self._wrapped = block
        self._portal = block.portal

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._wrapped!r}>"

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        try:
            self._portal.call_blocking(self._wrapped.begin)
        except BaseException:
            self._portal.call_blocking(self._wrapped.finish)  # it may have begun all the same
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        try:
            self._portal.call_blocking(self._wrapped.finish)
        except BenchscaleError as error:
            if exc is None:
                raise
            exc.add_note(f"and afterwards: {error}")
