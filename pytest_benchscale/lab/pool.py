"""The labs of a session, by topology and backend; one is up at a time."""

from __future__ import annotations

from pytest_benchscale.backends import registry
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology

__all__ = ["Pool"]


class Pool:
    """Builds labs, blocking, for the thread that runs the tests.

    What goes wrong while a lab is taken down is kept in `teardown_errors`, to be reported beside the
    tests' results: it must not become the failure of the next lab's first test.
    """

    def __init__(self, portal: Portal, options: LabOptions | None = None) -> None:
        self._portal = portal
        self._options = options or LabOptions()
        self._current: Lab | None = None
        self._failed: dict[tuple[Topology, str], BenchscaleError] = {}
        self.teardown_errors: list[BenchscaleError] = []

    @property
    def current(self) -> Lab | None:
        """The lab that is up."""
        return self._current

    def acquire(self, topology: Topology, backend: str) -> Lab:
        """Return the lab of a topology on a backend, built unless it is the one that is up.

        Another lab is taken down first. A build that failed is not tried again.

        Raises:
            BackendUnavailable: there is no such backend, or it cannot be used here.
            LabError: the lab failed to build, now or before.
        """
        __tracebackhide__ = True
        current = self._current
        if current is not None and current.is_up:
            if current.topology == topology and current.backend == backend:
                return current
            self.release(current)
        key = (topology, backend)
        if key in self._failed:
            raise LabError(
                f"lab {topology.name!r} on {backend!r} failed to build before: "
                f"{self._failed[key].brief}",
                step="up",
            )
        lab = Lab(topology, registry.get(backend)(), portal=self._portal, options=self._options)
        self._current = lab
        try:
            self._portal.call_blocking(lab.up)
        except BenchscaleError as exc:
            self._current = None
            self._failed[key] = exc
            raise
        except BaseException:
            self._current = None
            raise
        return lab

    def release(self, lab: Lab) -> None:
        """Take a lab down; an error of that is kept, not raised."""
        if self._current is lab:
            self._current = None
        try:
            self._portal.call_blocking(lab.down)
        except BenchscaleError as exc:
            self.teardown_errors.append(exc)

    def close(self) -> None:
        """Take down what is up."""
        if self._current is not None:
            self.release(self._current)
