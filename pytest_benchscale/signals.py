"""SIGTERM and SIGHUP, as from a CI server that has had enough: the labs are taken down before pytest ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

__all__ = ["Terminated", "listen"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_NAME = "benchscale-signals"


class Terminated(KeyboardInterrupt):
    """pytest was asked to end. What Ctrl-C does everywhere, in event loops, too, is right here as well."""


def listen(config: pytest.Config) -> None:
    """End in order from now on when asked to, unless somebody else takes care of that."""
    if not config.pluginmanager.has_plugin(_NAME):
        config.pluginmanager.register(_Signals(), _NAME)


class _Signals:
    """The handlers of one run, and the exit code that a shell would show for the signal."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._handled: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._end)
                    self._handled.append(number)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._restore()  # a second one ends us at once, and the watchdog does the rest
        self._received = signal.Signals(number)
        raise Terminated(f"pytest was ended by {self._received.name}")

    def _restore(self) -> None:
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        self._handled.clear()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """Let the exit code tell."""
        if self._received is not None:
            session.exitstatus = 128 + self._received

    def pytest_unconfigure(self) -> None:
        """Leave things as they were."""
        self._restore()
