"""The event loop of a large lab is never held up: nothing blocks in it, whatever the daemon does."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from pytest_benchscale import Lab, Topology
from pytest_benchscale.backends import registry
from pytest_benchscale.lab.portal import Portal
from tests.daemons.images import reference

LONGEST = 0.05  # seconds
NODES = [f"n{number}" for number in range(50)]

_SAMPLED_EVERY = 0.01  # seconds

# A process of its own, which no interpreter of ours can hold up. It tells when it slept for longer than it
# wanted to, and a processor was there for it: then the machine stood still.
_WITNESS = """\
import time
def waited():
    return int(open("/proc/self/schedstat").read().split()[1]) / 1e9
while True:
    began, before = time.monotonic(), waited()
    time.sleep(0.01)
    ended = time.monotonic()
    if ended - began - (waited() - before) > 0.03:
        print(began, ended, flush=True)
"""


class Spent(NamedTuple):
    """What became of a thread's time, in seconds; the rest of it was sleep."""

    running: float
    ready: float  # to run, for want of a processor


def _spent(thread: int | str) -> Spent:
    """Read a thread's schedstat (sched-stats.rst of the kernel's documentation)."""
    running, ready, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    return Spent(int(running) / 1e9, int(ready) / 1e9)


def _stolen() -> list[float]:
    """Read for each processor how long others had it, in seconds: proc(5), the column `steal`."""
    lines = Path("/proc/stat").read_text().splitlines()
    ticks = [int(line.split()[8]) for line in lines if line.startswith("cpu") and line[3] != " "]
    return [count / os.sysconf("SC_CLK_TCK") for count in ticks]


def _pages_fetched() -> int:
    """Return how often this process had to wait for a page of its memory: major faults.

    Those of all threads: one that waits may have the interpreter meanwhile, and so holds up the others.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _shared(began: float, ended: float, since: float, until: float) -> float:
    """Return how long two stretches of time have in common."""
    return max(0.0, min(ended, until) - max(began, since))


class Meter:
    """Looks at every callback of a loop, and collects those that took too long by their own fault.

    A callback may compute or sleep. Its fault is not that its thread was ready to run and got no processor,
    nor that it slept while other threads of ours ran or were ready to: they had the interpreter then. Nor
    that the machine itself stood still, as virtual ones do at times, or had to fetch a page of our memory
    from the disk. A call that blocks sleeps although nobody has the interpreter.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self.held_up: list[str] = []
        self._when: list[tuple[float, float]] = []
        self._loop = loop
        self._thread = thread
        self._others = [(time.monotonic(), self._look_at_others())]
        self._ended = threading.Event()
        self._witness = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WITNESS], stdout=subprocess.PIPE, text=True
        )
        self._sampler = threading.Thread(target=self._sample)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look, for a block."""
        run = asyncio.Handle._run

        def watched(handle: asyncio.Handle) -> None:
            if handle._loop is self._loop:  # type: ignore[attr-defined]  # there is nothing public
                self._watch(handle, run)
            else:
                run(handle)

        # To collect the garbage of all tests before this one would hold up any loop.
        gc.collect()
        gc.freeze()
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.001)  # of the threads that talk to the daemon
        self._sampler.start()
        try:
            with mock.patch.object(asyncio.Handle, "_run", watched):
                yield
        finally:
            self._ended.set()
            self._sampler.join()
            self._witness.terminate()
            self._forgive(self._witness.communicate()[0])
            sys.setswitchinterval(interval)
            gc.unfreeze()

    def _watch(self, handle: asyncio.Handle, run: Callable[[asyncio.Handle], None]) -> None:
        # For a task, what runs is its callback's.
        task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        what = repr(task if isinstance(task, asyncio.Task) else handle)
        began, before, stolen = time.monotonic(), _spent(self._thread), _stolen()
        fetched = _pages_fetched()
        run(handle)
        took = time.monotonic() - began
        if took > LONGEST:
            after = _spent(self._thread)
            computed = after.running - before.running
            slept = took - computed - (after.ready - before.ready)
            others = self._had_the_interpreter(began)
            others += max(now - then for now, then in zip(_stolen(), stolen, strict=True))
            if (
                _pages_fetched() > fetched
            ):  # which is sleep, too, and takes as long as the disk does
                slept = 0.0
            if computed + max(0.0, slept - others) > LONGEST:
                self._when.append((began, began + took))
                self.held_up.append(
                    f"{took:.3f} s, of which it ran {computed:.3f} s and slept {slept:.3f} s, "
                    f"while others had {others:.3f} s: {what}"
                )

    def _forgive(self, told: str) -> None:
        """Take out what happened while the whole machine stood still, as the witness tells."""
        stops = [tuple(map(float, line.split())) for line in told.splitlines()]
        self.held_up = [
            text
            for text, (began, ended) in zip(self.held_up, self._when, strict=True)
            if ended - began - sum(_shared(began, ended, *stop) for stop in stops) > LONGEST
        ]

    def _had_the_interpreter(self, since: float) -> float:
        """Return an upper bound of the time in which other threads may have had it."""
        before = [spent for when, spent in list(self._others) if when <= since][-1]
        now = self._look_at_others()
        return sum(spent - before.get(thread, 0.0) for thread, spent in now.items())

    def _look_at_others(self) -> dict[str, float]:
        spent = {}
        for path in Path("/proc/self/task").iterdir():
            try:
                spent[path.name] = sum(_spent(path.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
        del spent[str(self._thread)]
        return spent

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLED_EVERY):
            self._others.append((time.monotonic(), self._look_at_others()))


@contextmanager
def watched_portal() -> Iterator[tuple[Portal, Meter]]:
    """Make a portal whose loop is in debug mode: there, asyncio also checks who calls it from where."""

    async def watch() -> Meter:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = LONGEST
        return Meter(loop, threading.get_native_id())

    with Portal() as portal:
        meter = portal.call_blocking(watch)
        with meter.running():
            yield portal, meter


@pytest.mark.parametrize(
    "backend",
    [
        "local",
        pytest.param("docker", marks=pytest.mark.daemon("docker")),
        pytest.param("podman", marks=pytest.mark.daemon("podman")),
    ],
)
def test_with_fifty_nodes_nothing_holds_the_loop_up(backend: str) -> None:
    image = {"local": "host"}.get(backend, reference("debian"))
    nodes = [{"name": name, "image": image} for name in NODES]
    topology = Topology.from_dict({"metadata": {"name": "fifty"}, "nodes": nodes})
    kind = registry.get(backend)
    with watched_portal() as (portal, meter):
        lab = Lab(topology, kind(), portal=portal)
        portal.call_blocking(lab.up)
        try:
            for _ in range(3):
                results = lab.sync.exec("hostname")
                assert [results[name].stdout for name in NODES] == [f"{name}\n" for name in NODES]
            large = lab.sync.exec("head -c 1000000 /dev/zero")
            assert {len(result.stdout_bytes) for result in large.values()} == {1_000_000}
        finally:
            portal.call_blocking(lab.down)
    assert meter.held_up == []


def _sleeps() -> None:
    time.sleep(0.2)


def _computes() -> None:
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize("blocks", [_sleeps, _computes])
def test_what_does_hold_it_up_would_be_seen(blocks: Callable[[], None]) -> None:
    async def work() -> None:
        await asyncio.sleep(0.05)
        blocks()

    with watched_portal() as (portal, meter):
        portal.call_blocking(work)
    (told,) = meter.held_up
    assert "_Work._run()" in told
