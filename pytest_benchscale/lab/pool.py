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
    tests' results: it must not become the failure of the next lab's first test. `kept` are the labs
    that the user wants to look at afterwards.
    """

    def __init__(self, portal: Portal, options: LabOptions | None = None) -> None:
        self._portal = portal
        self._options = options or LabOptions()
        self._current: Lab | None = None
        self._current_key: tuple[Topology, str] | None = None
        self._failed: dict[tuple[Topology, str], BenchscaleError] = {}
        self.teardown_errors: list[BenchscaleError] = []
        self.kept: list[Lab] = []

    @property
    def current(self) -> Lab | None:
        """The lab that is up."""
        return self._current

    def acquire(self, topology: Topology, backend: str) -> Lab:
        """Return the lab of a topology on a backend, built unless it is the one that is up.

        `backend` is a name or `auto`. Another lab is taken down first. A build that failed is not
        tried again.

        Raises:
            BackendUnavailable: there is no such backend, or it cannot be used here.
            BenchscaleError: the lab could not be built, now or before.
        """
        __tracebackhide__ = True
        key = (topology, backend)
        if self._current is not None:
            if self._current_key == key and self._current.is_up:
                return self._current
            self.release(self._current)
        if earlier := self._failed.get(key):
            raise LabError(
                f"lab {topology.name!r} on {backend!r} could not be brought up before: "
                f"{earlier.brief}",
                step="up",
            )
        try:
            lab = self._portal.call_blocking(self._make, topology, backend)
            self._current, self._current_key = lab, key
            self._portal.call_blocking(lab.up)
        except BaseException as exc:
            if isinstance(exc, BenchscaleError):
                self._failed[key] = exc
            if self._current is not None and self._current.is_up:
                self.release(self._current)  # we were interrupted when it had just come up
            self._current = self._current_key = None
            raise
        return lab

    def release(self, lab: Lab, *, failed: bool = False) -> None:
        """Take a lab down, or keep it when that was asked for; errors are remembered, not raised.

        `failed` says that a test of it failed.
        """
        if self._current is lab:
            self._current = self._current_key = None
        if self._options.keep == "always" or (failed and self._options.keep == "failed"):
            self.kept.append(lab)
            return
        try:
            self._portal.call_blocking(lab.down)
        except BenchscaleError as exc:
            self.teardown_errors.append(exc)

    def close(self) -> None:
        """Take down the lab that is up; the portal stays the caller's."""
        if self._current is not None:
            self.release(self._current)

    async def _make(self, topology: Topology, backend: str) -> Lab:
        choice = await registry.resolve(topology, backend, self._options.images)
        cls = registry.get(choice.name)
        return Lab(topology, cls(), portal=self._portal, options=self._options)
