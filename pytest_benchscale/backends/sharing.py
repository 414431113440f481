"""Blocking work that is done once for everybody who asks for it at the same time.

The askers may be tasks of several event loops. The work goes on as long as one of them waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Protocol

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.errors import BenchscaleError

__all__ = ["Failed", "GivenUp", "Shared", "once"]

_lock = threading.Lock()
_running: dict[Hashable, Shared] = {}


class Failed(Exception):
    """Shared work failed; each of those who wait gets an error of its own from `make`."""

    def __init__(self, make: Callable[[], BenchscaleError]) -> None:
        super().__init__()
        self.make = make


class GivenUp(Exception):
    """Nobody waits any more."""


class Closeable(Protocol):
    """What can be ended from another thread."""

    def close(self) -> None:
        """End it: whoever reads from it stops."""
        ...


class Shared:
    """One piece of work while it is being done; `work` is called with it, in a thread."""

    def __init__(self, work: Callable[[Shared], str]) -> None:
        self.future: Future[str] = Future()
        self.listeners: list[Progress] = []
        self._work = work
        self._given_up = False
        self._stream: Closeable | None = None

    def start(self) -> None:
        """Begin."""
        self.future.set_running_or_notify_cancel()  # from now on, no asker can cancel it for all
        threading.Thread(target=self._run, name="benchscale-image", daemon=True).start()

    def say(self, text: str) -> None:
        """Tell everybody who waits how far it is."""
        with _lock:
            listeners = list(self.listeners)
        for listener in listeners:
            listener(text)

    @contextlib.contextmanager
    def reading(self, stream: Closeable) -> Iterator[None]:
        """Have a stream closed at the end of the block, or as soon as nobody waits.

        Raises:
            GivenUp: nobody waits any more.
        """
        with _lock:
            self._stream = stream
        try:
            self.check()
            yield
        except Exception as error:
            if self._given_up and not isinstance(error, GivenUp):  # it was closed under the reader
                raise GivenUp from error
            raise
        finally:
            with _lock:
                self._stream = None
            stream.close()

    def check(self) -> None:
        """Go on only if somebody waits.

        Raises:
            GivenUp: nobody does.
        """
        if self._given_up:
            raise GivenUp

    def give_up(self) -> None:
        """End the work; called with the lock held."""
        self._given_up = True
        if self._stream is not None:
            self._stream.close()

    def _run(self) -> None:
        try:
            result = self._work(self)
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            self._forget()
            self.future.set_exception(error)
        else:
            self._forget()
            self.future.set_result(result)

    def _forget(self) -> None:
        """Have whoever asks from now on begin anew."""
        with _lock:
            for key in [key for key, shared in _running.items() if shared is self]:
                del _running[key]


async def once(key: Hashable, work: Callable[[Shared], str], progress: Progress | None) -> str:
    """Return what `work` returns; joined with whoever waits for the same key right now.

    Raises:
        BenchscaleError: it failed.
    """
    loop = asyncio.get_running_loop()

    def listener(text: str) -> None:
        if progress is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed since
                loop.call_soon_threadsafe(progress, text)

    with _lock:
        shared = _running.get(key)
        is_new = shared is None
        if shared is None:
            shared = _running[key] = Shared(work)
        shared.listeners.append(listener)
    if is_new:
        shared.start()
    try:
        return await asyncio.wrap_future(shared.future)
    except Failed as failed:
        raise failed.make() from None
    finally:
        with _lock:
            shared.listeners.remove(listener)
            if not shared.listeners and _running.get(key) is shared:
                del _running[key]
                shared.give_up()
