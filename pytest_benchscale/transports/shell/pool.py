"""The waiting sessions of one node and one of its users.

A session that is free goes to whoever waits longest. Another one is set up when for a moment none
was free: short commands, one after the other or many at once, share few sessions, and long ones
find the next one ready. What has been idle for a while is let go, except one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.transports.shell.session import Session

__all__ = ["Pool"]

_MOMENT = 0.01  # seconds in which no session became free before another one is set up
_AT_ONCE = 4  # sessions that are set up at the same time
_IDLE_SECONDS = 5.0


class Pool:
    """Sessions by `open_session`, which may raise; so does `take`, then."""

    def __init__(self, open_session: Callable[[], Awaitable[Session]]) -> None:
        self._open_session = open_session
        self._loop = asyncio.get_running_loop()
        self._free: list[Session] = []
        self._busy: set[Session] = set()
        self._waiting: deque[asyncio.Future[Session]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._growth: asyncio.TimerHandle | None = None
        self._shrinking: asyncio.TimerHandle | None = None
        self._freed = 0.0  # when a session last became free
        self._closed = False

    async def take(self) -> Session:
        """Return a waiting session, which is the caller's until it is given back.

        Raises:
            NoShell, and what else `open_session` raises: none could be set up.
        """
        while self._free:
            session = self._free.pop()
            if session.is_open:
                self._busy.add(session)
                self._watch()
                return session
        future: asyncio.Future[Session] = self._loop.create_future()
        self._waiting.append(future)
        if self._busy:
            self._watch()
        else:
            self.grow()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result(), clean=True)
            raise

    def give_back(self, session: Session, *, clean: bool) -> None:
        """Take a session that has done its work, or one that is of no more use."""
        self._busy.discard(session)
        if session in self._free:
            self._free.remove(session)
        if not clean or not session.is_open or self._closed:
            session.close()
            if self._waiting and not self._closed:
                self._watch()
            return
        self._freed = self._loop.time()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                self._busy.add(session)
                future.set_result(session)
                return
        self._free.append(session)
        if len(self._free) > 1 and self._shrinking is None:
            self._shrinking = self._loop.call_later(_IDLE_SECONDS, self._shrink)

    def grow(self) -> None:
        """Set up as many sessions as are waited for, and at least one."""
        if self._closed or self._free:
            return
        for _ in range(len(self._tasks), min(_AT_ONCE, max(1, len(self._waiting)))):
            task = self._loop.create_task(self._set_up())
            self._tasks.add(task)
            task.add_done_callback(self._has_grown)

    def fail(self, error: BaseException) -> None:
        """Tell everybody who waits that no session will come."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    def close(self, error: BenchscaleError) -> None:
        """End all sessions; commands that still run, and who waits for a session, get the error."""
        self._closed = True
        for timer in (self._growth, self._shrinking):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        self.fail(error)
        for session in (*self._free, *self._busy):
            if session.command is not None:
                session.command.lost(error)
            session.close()

    def _watch(self) -> None:
        """Look in a moment whether another session is needed."""
        if self._growth is None and not self._closed:
            self._growth = self._loop.call_later(_MOMENT, self._look)

    def _look(self) -> None:
        """Set another session up, unless one became free a moment ago: then the next will soon."""
        self._growth = None
        if self._loop.time() - self._freed < _MOMENT:
            self._watch()
        else:
            self.grow()

    async def _set_up(self) -> None:
        try:
            session = await self._open_session()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            self.fail(error)
            return
        self.give_back(session, clean=True)

    def _has_grown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting:  # more sessions were needed, and still are
            self.grow()

    def _shrink(self) -> None:
        self._shrinking = None
        while len(self._free) > 1:
            self._free.pop(0).close()
