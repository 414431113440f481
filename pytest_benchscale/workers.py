"""What the controller of a run under pytest-xdist has to do with labs: tell which its workers have left."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["SECONDS", "attend"]

SECONDS = 20.0
"""How long the watchdogs of workers that did not end in order may take."""

_NAME = "benchscale-workers"


def attend(node: Any) -> None:
    """Remember a worker by its number; forget one that has ended in order, and so has told all there is."""
    config, worker = node.config, node.workerinfo["pid"]
    plugin = config.pluginmanager.get_plugin(_NAME)
    if plugin is None:
        plugin = _Workers()
        config.pluginmanager.register(plugin, _NAME)
    plugin.numbers.discard(worker) if hasattr(node, "workeroutput") else plugin.numbers.add(worker)


class _Workers:
    """The workers of a run that have not ended in order."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._left: list[str] = []

    @pytest.hookimpl(trylast=True)  # after xdist has ended them
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Wait until nothing of the labs of such workers is there; what is there then is an error."""
        if self.numbers:
            from pytest_benchscale.lab.sweep import left_by  # noqa: PLC0415  seldom needed

            self._left = left_by(self.numbers, SECONDS)
            if self._left and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell of it."""
        if self._left:
            from pytest_benchscale import reporting  # noqa: PLC0415

            reporting.show(terminalreporter, [("left by workers", self._left)])
