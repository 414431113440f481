"""The hop into the lab's event loop: values, errors, cancellation, from every kind of caller."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from pytest_benchscale.errors import LabError, NodeDied
from pytest_benchscale.lab.portal import Portal


async def _thread() -> int:
    return threading.get_ident()


async def _fail(error: BaseException) -> None:
    raise error


class Cleaning:
    """Work that takes its time to clean up when it is cancelled."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.began = threading.Event()
        self.cleaned = False

    async def __call__(self) -> None:
        try:
            self.began.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.seconds)
            self.cleaned = True

    async def began_in_loop(self) -> None:
        while not self.began.is_set():
            await anyio.sleep(0.001)


def on_both(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio and on trio."""

    @pytest.mark.parametrize("library", ["asyncio", "trio"])
    def run(portal: Portal, library: str) -> None:
        anyio.run(test, portal, backend=library)

    run.__name__ = run.__qualname__ = test.__name__
    return run


@on_both
async def test_work_runs_in_the_portals_one_thread(portal: Portal) -> None:
    first = await portal.call(_thread)
    assert first == await portal.call(_thread) != threading.get_ident()


def test_a_blocking_call_runs_in_the_same_thread(portal: Portal) -> None:
    here = portal.call_blocking(_thread)
    assert here == asyncio.run(portal.call(_thread)) == anyio.run(portal.call, _thread)


@on_both
async def test_an_error_crosses_with_its_type_and_value(portal: Portal) -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:
        await portal.call(_fail, error)
    assert caught.value is error


@on_both
async def test_our_own_errors_do_not_show_our_frames(portal: Portal) -> None:
    with pytest.raises(NodeDied) as caught:
        await portal.call(_fail, NodeDied("a", "it fell over"))
    frames = [frame for frame in caught.traceback if not frame.ishidden(caught)]
    assert [str(frame.path) for frame in frames] == [__file__]


@on_both
async def test_other_errors_show_where_they_come_from(portal: Portal) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await portal.call(_fail, ZeroDivisionError())
    assert "_fail" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_the_users_context_variables_stay_outside(portal: Portal) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    variable.set("mine")

    async def read() -> str:
        return variable.get()

    assert portal.call_blocking(read) == "outside"
    assert asyncio.run(portal.call(read)) == "outside"


def test_a_caller_on_trio_does_not_make_the_portal_believe_in_trio(portal: Portal) -> None:
    async def where() -> str:
        await anyio.sleep(0)
        return type(asyncio.get_running_loop()).__module__

    assert "asyncio" in anyio.run(portal.call, where, backend="trio")


@on_both
async def test_a_cancelled_caller_waits_for_the_clean_up(portal: Portal) -> None:
    work = Cleaning()
    async with anyio.create_task_group() as group:
        group.start_soon(portal.call, work)
        await work.began_in_loop()
        group.cancel_scope.cancel()
    assert work.cleaned


@on_both
async def test_a_deadline_outside_cancels_the_work_inside(portal: Portal) -> None:
    work = Cleaning()
    with anyio.move_on_after(0.05) as scope:
        await portal.call(work)
    assert scope.cancelled_caught
    assert work.cleaned


async def test_a_cancelled_task_waits_for_the_clean_up(portal: Portal) -> None:
    work = Cleaning()
    task = asyncio.create_task(portal.call(work))
    await work.began_in_loop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cleaned


async def test_cancelling_again_does_not_cut_the_clean_up_short(portal: Portal) -> None:
    work = Cleaning(0.1)
    task = asyncio.create_task(portal.call(work))
    await work.began_in_loop()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.005)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cleaned


async def test_asyncio_timeout_works_across_the_hop(portal: Portal) -> None:
    work = Cleaning()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await portal.call(work)
    assert work.cleaned


async def test_a_cancelled_caller_does_not_wait_for_ever() -> None:
    with Portal(cleanup_deadline=0.1) as portal:
        work = Cleaning(0.6)
        task = asyncio.create_task(portal.call(work))
        await work.began_in_loop()
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 0.5


@on_both
async def test_work_that_is_cancelled_before_it_begins_never_begins(portal: Portal) -> None:
    began = []

    async def work() -> None:
        began.append(1)
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        scope.cancel()
        await portal.call(work)
    assert len(began) <= 1
    assert await portal.call(_thread)


async def test_an_error_in_the_clean_up_is_a_note_on_the_cancellation(portal: Portal) -> None:
    began = threading.Event()

    async def work() -> None:
        try:
            began.set()
            await anyio.sleep_forever()
        finally:
            raise LabError("the node would not go")

    task = asyncio.create_task(portal.call(work))
    while not began.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.__notes__ == ["while cleaning up: the node would not go"]


class Alarmed(Exception):
    pass


def _raise_after(seconds: float) -> None:
    def handler(signum: int, frame: object) -> None:
        raise Alarmed

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def test_a_signal_handler_that_raises_cancels_a_blocking_call(portal: Portal) -> None:
    work = Cleaning()
    before = signal.getsignal(signal.SIGALRM)
    try:
        _raise_after(0.05)
        with pytest.raises(Alarmed):
            portal.call_blocking(work)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert work.cleaned


def test_a_second_signal_ends_the_waiting_for_the_clean_up(portal: Portal) -> None:
    work = Cleaning(1.0)
    before = signal.getsignal(signal.SIGALRM)
    started = time.monotonic()
    try:
        _raise_after(0.05)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
        with pytest.raises(Alarmed):
            portal.call_blocking(work)
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not work.cleaned
    assert time.monotonic() - started < 0.9
    portal.close()
    assert work.cleaned  # closing waits for it after all


def test_a_blocking_call_inside_the_portal_is_refused(portal: Portal) -> None:
    async def nested() -> None:
        portal.call_blocking(_thread)

    with pytest.raises(RuntimeError, match="wait for itself"):
        portal.call_blocking(nested)


def test_a_call_inside_the_portal_runs_directly(portal: Portal) -> None:
    async def nested() -> int:
        return await portal.call(_thread)

    assert portal.call_blocking(nested) == portal.call_blocking(_thread)


def test_a_closed_portal_says_so(portal: Portal) -> None:
    portal.call_blocking(_thread)
    portal.close()
    portal.close()
    with pytest.raises(LabError, match="closed"):
        portal.call_blocking(_thread)


def test_closing_cuts_running_work_short_and_lets_it_clean_up(portal: Portal) -> None:
    work = Cleaning()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            portal.call_blocking(work)
        except LabError as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert work.began.wait(5)
    portal.close()
    thread.join(5)
    assert work.cleaned
    assert len(errors) == 1


def test_a_system_exit_in_the_work_reaches_the_caller_and_not_the_loop(portal: Portal) -> None:
    with pytest.raises(SystemExit):
        portal.call_blocking(_fail, SystemExit(3))
    assert portal.call_blocking(_thread)


def test_many_threads_and_loops_share_one_portal(portal: Portal) -> None:
    async def echo(value: int) -> int:
        await anyio.sleep(0)
        return value

    def run(library: str, results: list[list[int]]) -> None:
        async def main() -> list[int]:
            return [await portal.call(echo, value) for value in range(50)]

        results.append(anyio.run(main, backend=library))

    results: list[list[int]] = []
    threads = [
        threading.Thread(target=run, args=(library, results))
        for library in ("asyncio", "trio", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [list(range(50))] * 4


def test_a_caller_that_is_cancelled_after_the_portal_was_closed_is_just_cancelled(
    portal: Portal,
) -> None:
    loop = asyncio.new_event_loop()
    work = Cleaning()
    task = loop.create_task(portal.call(work))
    loop.run_until_complete(work.began_in_loop())
    portal.close()
    assert work.cleaned
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_a_loop_that_was_closed_under_a_call_does_not_disturb_the_portal(portal: Portal) -> None:
    loop = asyncio.new_event_loop()
    work = Cleaning()
    task = loop.create_task(portal.call(work))
    loop.run_until_complete(work.began_in_loop())
    loop.close()
    portal.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert work.cleaned
