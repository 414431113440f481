"""The one event-loop thread that every lab lives on.

A lab is used from many loops: a test's own, another test's after that one was closed, a fixture's,
or none at all. What it owns (connections, child processes, background readers) works in one loop
only. So all of it lives in the portal's thread, and every call hops there and back: `call` from a
running asyncio or trio loop, `call_blocking` from a plain thread. Cancelling the caller cancels the
work, and waits until the work has cleaned up behind itself.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, TypeVarTuple, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from pytest_benchscale.errors import BenchscaleError, LabError

__all__ = ["Portal", "blocking", "on_portal"]

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLEANUP_DEADLINE = 120.0
"""How long, in seconds, a cancelled caller waits for its work to clean up."""

_LISTEN_INTERVAL = 0.2  # seconds


class Portal:
    """One thread with one asyncio loop, started when first used, until `close`."""

    def __init__(self, *, cleanup_deadline: float = CLEANUP_DEADLINE) -> None:
        self._cleanup_deadline = cleanup_deadline
        self._guard = threading.Lock()
        self._thread: AbstractContextManager[BlockingPortal] | None = None
        self._thread_id: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._working: dict[_Work[Any], asyncio.Task[None]] = {}

    def __enter__(self) -> Portal:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the portal's own."""
        return threading.get_ident() == self._thread_id

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(*args)` in the portal, from any running loop, and return its result.

        Raises:
            LabError: the portal is closed.
            Exception: whatever fn raises.
        """
        __tracebackhide__ = True
        if self.is_here:
            return await fn(*args)
        finished = anyio.Event()
        work = _Work(functools.partial(fn, *args), _waker(finished.set))
        loop = self._loop or self._running_loop()
        try:
            self._submit(work, loop)
            await finished.wait()
        except GeneratorExit:  # the caller's loop is gone: there is nothing to wait in
            _cancel(work, loop)
            raise
        except anyio.get_cancelled_exc_class() as exc:
            if _cancel(work, loop):
                await self._outlast(finished)
            work.leave_note(exc)
            raise
        except BaseException:
            _cancel(work, loop)
            raise
        return work.result()

    def call_blocking(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(*args)` in the portal, from a plain thread, and return its result.

        A signal handler that raises here, such as Ctrl-C, cancels the work and waits for its
        clean-up; a second one ends that waiting.

        Raises:
            LabError: the portal is closed.
            RuntimeError: the calling thread is the portal's own.
            Exception: whatever fn raises.
        """
        __tracebackhide__ = True
        if self.is_here:
            raise RuntimeError("a blocking call in the portal's own thread would wait for itself")
        # A bare lock, because a signal handler that raises inside threading.Event breaks the event.
        unfinished = threading.Lock()
        unfinished.acquire()
        work = _Work(functools.partial(fn, *args), unfinished.release)
        loop = self._loop or self._running_loop()
        try:
            self._submit(work, loop)
            _await_release(unfinished, math.inf)
        except BaseException as exc:
            if _cancel(work, loop) and not work.done:
                _await_release(unfinished, self._cleanup_deadline)
            work.leave_note(exc)
            raise
        return work.result()

    def close(self) -> None:
        """Cancel what still runs, wait for its clean-up and end the thread. Safe to call twice."""
        with self._guard:
            self._closed = True
            thread, loop = self._thread, self._loop
            self._thread = self._loop = None
        if thread is None or loop is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._cancel_all(), loop).result()
        finally:
            thread.__exit__(None, None, None)
            self._thread_id = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._closed:
                raise _closed("the lab's event loop is closed")
            if self._loop is None:
                self._thread = start_blocking_portal(backend="asyncio")
                portal = self._thread.__enter__()
                self._thread_id = portal.call(threading.get_ident)
                self._loop = portal.call(asyncio.get_running_loop)
            return self._loop

    def _submit(self, work: _Work[Any], loop: asyncio.AbstractEventLoop) -> None:
        try:
            # An empty context: the caller's variables, and its library's, mean nothing over there.
            loop.call_soon_threadsafe(work.begin, self._working, context=Context())
        except RuntimeError:
            raise _closed("the lab's event loop is closed") from None

    async def _outlast(self, finished: anyio.Event) -> None:
        """Wait for the work's end whatever cancels us meanwhile, until the deadline."""
        with anyio.move_on_after(self._cleanup_deadline, shield=True) as scope:
            while not finished.is_set():
                try:
                    await finished.wait()
                except asyncio.CancelledError:
                    # Task.cancel() passes every shield; the first one is raised again in the end.
                    if scope.cancel_called:
                        raise

    async def _cancel_all(self) -> None:
        for work in self._working:
            work.cancel()
        if tasks := list(self._working.values()):
            await asyncio.wait(tasks, timeout=self._cleanup_deadline)


class _Work(Generic[T]):
    """One call on its way through the portal: made outside, run inside, read outside again."""

    def __init__(self, fn: Callable[[], Awaitable[T]], finished: Callable[[], object]) -> None:
        self._fn = fn
        self._finished = finished
        self.done = False
        self._begun = False
        self._cancelled = False
        self._cut_short = False
        self._scope: anyio.CancelScope | None = None
        self._value: T | None = None
        self._error: BaseException | None = None

    def begin(self, working: dict[_Work[Any], asyncio.Task[None]]) -> None:
        """Start the work; `working` holds its task meanwhile, as the loop does so only weakly."""
        self._begun = True
        task = asyncio.get_running_loop().create_task(self._run())
        working[self] = task
        task.add_done_callback(lambda _: working.pop(self))

    def cancel(self) -> None:
        """Cancel the work, also one that never began."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()
        elif not self._begun:
            self._finish()

    async def _run(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                self._value = await self._fn()
            self._cut_short = self._scope.cancelled_caught
        except asyncio.CancelledError:
            self._cut_short = True
        except BaseException as exc:  # noqa: BLE001  it is raised on the caller's side
            self._error = exc
        finally:
            self._scope = None
            self._finish()

    def _finish(self) -> None:
        self.done = True
        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            self._finished()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised."""
        __tracebackhide__ = True
        if self._cut_short:
            raise _closed("the call was cut short because the lab's event loop was closed")
        if self._error is None:
            return cast("T", self._value)
        try:
            # Our own errors say all there is to say; any other shows where it came from.
            raise (
                self._error.with_traceback(None)
                if isinstance(self._error, BenchscaleError)
                else self._error
            )
        finally:
            self._error = None  # else it would hold the frame that holds it

    def leave_note(self, exc: BaseException) -> None:
        """Tell on the cancellation what went wrong in the clean-up."""
        if self._error is not None:
            exc.add_note(f"while cleaning up: {self._error}")


def _cancel(work: _Work[Any], loop: asyncio.AbstractEventLoop) -> bool:
    """Ask for the cancellation of work; return whether there is an end of it to wait for."""
    try:
        loop.call_soon_threadsafe(work.cancel)
    except RuntimeError:
        return False  # the portal's loop is closed: whatever ran there has ended
    return True


def _await_release(lock: threading.Lock, timeout: float) -> None:
    """Wait until a lock is released, with an ear for signals.

    A signal that comes just before the wait begins does not end it: Python would run its handler
    only afterwards. So it is begun anew several times a second.
    """
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        if lock.acquire(timeout=min(left, _LISTEN_INTERVAL)):
            return


def _waker(wake: Callable[[], None]) -> Callable[[], object]:
    """Return what calls `wake` in the loop that runs here, from any thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        trio: Any = sys.modules["trio"]  # anyio found a loop: this is the other one that it knows
        return functools.partial(trio.lowlevel.current_trio_token().run_sync_soon, wake)
    return functools.partial(loop.call_soon_threadsafe, wake)


def _closed(brief: str) -> LabError:
    return LabError(
        brief, resolution="use a lab only inside the session or the `with` block it belongs to"
    )


class _OnPortal(Protocol):
    _portal: Portal


class _Facade(Protocol):
    _portal: Portal
    _wrapped: Any


Owner = TypeVar("Owner", bound=_OnPortal)


def on_portal(
    method: Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
    """Make an async method run in its object's portal, whichever loop calls it."""

    @functools.wraps(method)
    async def hop(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        portal = self._portal
        if portal.is_here:
            return await method(self, *args, **kwargs)
        return await portal.call(functools.partial(method, self, *args, **kwargs))

    return hop


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Return the twin of an async method for a facade's class: the same arguments, no `await`."""

    @functools.wraps(method)
    def call(self: _Facade, /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        return self._portal.call_blocking(functools.partial(method, self._wrapped, *args, **kwargs))

    return call
