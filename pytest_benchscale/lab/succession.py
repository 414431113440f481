"""One test after the other: which lab each gets, and what a test's end means for the labs.

Knows nothing of pytest, and builds nothing: it is asked, and remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pytest_benchscale.lab.request import LabRequest

__all__ = ["Succession"]


class Succession:
    """Which requests are followed by others, and which have seen a test fail or break off.

    `puts_aside` tells whether a lab is left as a failed test of it has left it. Labs that are given up
    while a test ends wait until it has: `release` is called with them then, since the last of its
    fixtures may still fail.
    """

    def __init__(
        self, puts_aside: Callable[[LabRequest], bool], release: Callable[[LabRequest], None]
    ) -> None:
        self._puts_aside = puts_aside
        self._release = release
        self._latest: dict[int, LabRequest] = {}
        self._failed: set[LabRequest] = set()
        self._spent: set[LabRequest] = set()
        self._went_on: set[LabRequest] = set()
        self._running: LabRequest | None = None
        self._waiting: list[LabRequest] | None = None

    def begin(self, request: LabRequest) -> LabRequest:
        """Return what the next test of a request shall ask for: it itself, or what follows it."""
        latest = self._latest.get(request.index, request)
        if latest in self._spent or (latest in self._failed and self._puts_aside(latest)):
            latest = replace(latest)
        elif latest in self._failed:
            self._went_on.add(latest)
        self._latest[request.index] = self._running = latest
        return latest

    def fail(self, request: LabRequest) -> None:
        """Note that a test of it has failed."""
        self._failed.add(request)

    def spend(self, request: LabRequest) -> None:
        """Its lab is of no use to further tests."""
        self._spent.add(request)

    def has_failed(self, request: LabRequest) -> bool:
        """Whether a test of it has failed."""
        return request in self._failed

    def went_on(self, request: LabRequest) -> bool:
        """Whether further tests used its lab after one had failed."""
        return request in self._went_on

    def is_clean(self, request: LabRequest) -> bool:
        """Whether all of its tests have ended, and as they should."""
        return request not in self._failed | self._spent and request is not self._running

    @contextmanager
    def ending(self, request: LabRequest | None) -> Iterator[None]:
        """A test's fixtures are ended in this block; what goes wrong there is a failure of the test."""
        self._waiting = []
        try:
            yield
            self._running = None
        except KeyboardInterrupt:
            raise
        except BaseException:  # pytest's own, such as that of pytest.fail, are no Exceptions
            if request is not None:
                self.fail(request)
            self._running = None
            raise
        finally:
            waiting, self._waiting = self._waiting, None
            for one in waiting:
                self._release(one)

    def postpones(self, request: LabRequest) -> bool:
        """Whether a lab that is given up now waits for the end of a test."""
        if self._waiting is None:
            return False
        self._waiting.append(request)
        return True
