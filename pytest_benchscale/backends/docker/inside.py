"""Work in the network namespace of a container, done from this machine: its image needs no tool for that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pytest_benchscale.transports.namespace import linux

__all__ = ["inside"]

T = TypeVar("T")


def inside(pid: int, work: Callable[[], T]) -> T:
    """Call a function in the network namespace of a process, and return what it returns. Blocks; needs root.

    Raises:
        OSError: the namespace cannot be entered, or the process is gone; and what the function raises.
    """

    def run() -> T:
        linux.enter_network_of(pid)
        return work()

    # A thread of its own, which ends: it stays in the namespace that it enters.
    with ThreadPoolExecutor(1, "benchscale-inside") as threads:
        return threads.submit(run).result()
