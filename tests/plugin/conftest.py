"""A test suite of its own for each test, with topologies and backends that record what is done."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pytest_benchscale import marks, reporting
from pytest_benchscale.backends import registry
from pytest_benchscale.lab import pool, session, sync
from pytest_benchscale.topology import loader
from tests.plugin import recording

IMPORTED = (marks, reporting, pool, session, sync, loader)
"""What a run imports; pytester would otherwise make each run in this process import it anew."""

REPOSITORY = Path(__file__).parents[2]

LAN = """
metadata: {name: lan}
network: {name: lan, subnet: 10.1.0.0/24}
nodes: [{name: server}, {name: client}]
"""
WAN = "metadata: {name: wan}\nnodes: [{name: router}]\n"
PLAIN = (
    "-o",
    "asyncio_default_fixture_loop_scope=function",  # pytest-asyncio warns without
    "-p",
    "no:randomly",  # many of these tests are about an order
)
# It cannot be configured twice in one process, and costs each new one half a second.
ALONE = ("-p", "no:labgrid")


class Suite:
    """A directory with tests, as `pytester` has it, and what its runs did to the backends."""

    CONFTEST = """
import pathlib
import pytest
from tests.plugin import recording

recording.register(pathlib.Path(__file__).with_name("events.log"))
"""

    def __init__(self, pytester):
        self._pytester = pytester
        self.path = pytester.path
        self.makepyfile, self.makefile = pytester.makepyfile, pytester.makefile
        self.makeini, self.makeconftest = pytester.makeini, pytester.makeconftest
        self.mkdir = pytester.mkdir
        self.makeconftest(self.CONFTEST)
        self.makeini("[pytest]\nbenchscale_backend = fake\n")
        self.makefile(".yaml", lan=LAN, wan=WAN)

    def run(self, *arguments):
        """Run the suite in this process."""
        return self._pytester.runpytest_inprocess(*PLAIN, *ALONE, *arguments)

    def run_subprocess(self, *arguments, timeout, but=ALONE):
        """Run the suite in a process of its own, where signals and other plugins are at home."""
        return self._pytester.runpytest_subprocess(*PLAIN, *but, *arguments, timeout=timeout)

    def start(self, *arguments, stdout=subprocess.PIPE):
        """Start the suite in a process of its own and let it run."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *ALONE, *arguments],
            cwd=self.path,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_in_terminal(self, *arguments, timeout):
        """Run the suite in a process of its own, with a terminal of 80 columns; return what it shows."""
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, (24, 80))
        process = self.start(*PLAIN, *arguments, stdout=its)
        os.close(its)
        shown, deadline = b"", time.monotonic() + timeout
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            while select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
                try:
                    shown += terminal.read(4096)
                except OSError:  # nobody has its other end any more
                    break
        try:
            process.wait(max(0, deadline - time.monotonic()))
        finally:
            process.kill()
            process.wait()
        return shown.decode()

    def events(self, *kinds):
        """Return what was recorded, of these kinds; of none: the labs' comings and goings."""
        path = self.path / "events.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] in (kinds or ("open", "close"))]

    def wait_for_event(self, event, deadline):
        end = time.monotonic() + deadline
        while event not in self.events(event.split()[0]):
            assert time.monotonic() < end, f"{event!r} did not happen in {deadline} s"
            time.sleep(0.02)


@pytest.fixture
def suite(pytester, monkeypatch):
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(pytester.path / "state"))
    for name in ("CI", "BUILD_NUMBER"):  # with them, pytest's summary repeats whole messages
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(registry, "names", registry.names)  # what `recording.only` changes
    yield Suite(pytester)
    recording.unregister()
