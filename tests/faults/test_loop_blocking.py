"""The event loop of a large lab is never held up: nothing blocks in it, whatever the daemon does."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_benchscale import Lab, Topology
from pytest_benchscale.backends import registry
from pytest_benchscale.lab.portal import Portal
from tests.daemons.images import reference

LONGEST = 0.05  # seconds
NODES = [f"n{number}" for number in range(50)]

_TOOK = re.compile(r"Executing (?P<what>.*) took (?P<seconds>[0-9.]+) seconds", re.DOTALL)
_SAMPLED_EVERY = 0.01  # seconds


class Meter(logging.Handler):
    """Collects what asyncio's debug mode says about callbacks that took too long.

    What others took from us does not count: the time in which the kernel had a thread of ours ready to run
    and no processor for it, since a thread that waits for its turn also keeps those waiting that need the
    interpreter. A call that blocks is asleep in that time, not ready, and so counts in full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_up: list[str] = []
        self._samples = [(time.monotonic(), _waits_for_a_processor())]
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample)

    def emit(self, record: logging.LogRecord) -> None:
        """Take note; it is called in the loop's thread, just after the callback."""
        if match := _TOOK.fullmatch(record.getMessage()):
            took, now = float(match["seconds"]), time.monotonic()
            own = took - self.taken_by_others(since=now - took)
            if own > LONGEST:
                self.held_up.append(f"{took:.3f} s, {own:.3f} s of them our own: {match['what']}")

    def taken_by_others(self, since: float) -> float:
        """Return for how long, in seconds, threads of ours had to wait for a processor."""
        before = [waits for when, waits in list(self._samples) if when <= since][-1]
        now = _waits_for_a_processor()
        return sum(waited - before.get(thread, 0.0) for thread, waited in now.items())

    @contextmanager
    def running(self) -> Iterator[None]:
        logger = logging.getLogger("asyncio")
        logger.addHandler(self)
        # Collecting the garbage of all tests before this one would hold up any loop.
        gc.collect()
        gc.freeze()
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.001)  # of the threads that talk to the daemon
        self._sampler.start()
        try:
            yield
        finally:
            self._ended.set()
            self._sampler.join()
            sys.setswitchinterval(interval)
            gc.unfreeze()
            logger.removeHandler(self)

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLED_EVERY):
            self._samples.append((time.monotonic(), _waits_for_a_processor()))


def _waits_for_a_processor() -> dict[str, float]:
    """Return for how long (s) each thread of this process was ready to run and did not; sched-stats.rst."""
    waits = {}
    for thread in Path("/proc/self/task").iterdir():
        try:
            waits[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return waits


@contextmanager
def watched_portal() -> Iterator[tuple[Portal, Meter]]:
    """Make a portal whose loop is in debug mode."""
    meter = Meter()

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = LONGEST

    with Portal() as portal:
        portal.call_blocking(watch)
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
            assert len(lab.sync.exec("head -c 1000000 /dev/zero")["n7"].stdout_bytes) == 1_000_000
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
        await asyncio.sleep(0)

    with watched_portal() as (portal, meter):
        portal.call_blocking(work)
    assert len(meter.held_up) == 1
    assert "work" in meter.held_up[0]
