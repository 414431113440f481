"""The labs of a session, by topology and backend; one is up at a time."""

from __future__ import annotations

from dataclasses import replace

from pytest_benchscale.backends import registry
from pytest_benchscale.errors import BenchscaleError, LabError, SubnetTaken
from pytest_benchscale.lab.keeping import Fate, Keeper, in_the_way
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.lab.reuse import Reuse, fingerprint_of
from pytest_benchscale.topology.model import Topology

__all__ = ["Pool"]

_Key = tuple[Topology, str, bool]
_ATTEMPTS = 3  # at a lab, while labs that were left for reuse are in its way


class Pool:
    """Builds labs, blocking, for the thread that runs the tests.

    What goes wrong while a lab is taken down is kept in `teardown_errors`, to be reported beside the
    tests' results: it must not become the failure of the next lab's first test. `keeper` knows the labs
    that stay.
    """

    def __init__(self, portal: Portal, options: LabOptions | None = None) -> None:
        self._portal = portal
        self._options = options or LabOptions()
        self._current: Lab | None = None
        self._current_key: _Key | None = None
        self._failed: dict[_Key, BenchscaleError] = {}
        self.teardown_errors: list[BenchscaleError] = []
        self.keeper = Keeper(self._options)
        self.reuse = Reuse(portal)
        self._fingerprints: dict[_Key, str] = {}

    @property
    def current(self) -> Lab | None:
        """The lab that is up."""
        return self._current

    def acquire(self, topology: Topology, backend: str, *, resettable: bool = False) -> Lab:
        """Return the lab of a topology on a backend, built unless it is the one that is up.

        `backend` is a name or `auto`. Another lab is taken down first. A build that failed is not
        tried again.

        Raises:
            BackendUnavailable: there is no such backend, or it cannot be used here.
            BenchscaleError: the lab could not be built, now or before.
        """
        __tracebackhide__ = True
        key = (topology, backend, resettable)
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
            return self._obtained(key)
        except BaseException as exc:
            if isinstance(exc, BenchscaleError):
                self._failed[key] = exc
            if self._current is not None and self._current.is_up:
                self.release(
                    self._current, clean=False
                )  # we were interrupted when it had just come up
            self._current = self._current_key = None
            raise

    def _obtained(self, key: _Key) -> Lab:
        """Return a lab of an earlier session, or a new one, and make room for that where one can."""
        for attempt in range(_ATTEMPTS, 0, -1):
            lab = self._portal.call_blocking(self._make, *key)
            if earlier := self._reused(lab, key):
                return earlier
            self._current, self._current_key = lab, key
            try:
                self._portal.call_blocking(lab.up)
            except SubnetTaken as exc:
                fingerprint = self._fingerprints.get(key)
                if attempt == 1 or not self._portal.call_blocking(
                    self.reuse.make_room, lab.backend, exc, fingerprint
                ):
                    raise
            else:
                break
        return lab

    def _reused(self, lab: Lab, key: _Key) -> Lab | None:
        """Return a lab of an earlier session, ours now, in place of a new one; None: there is none."""
        if not self._options.reuse:
            return None
        fingerprint = fingerprint_of(lab.topology, lab.backend, lab.options)
        self._fingerprints[key] = fingerprint

        def found(earlier: Lab) -> None:
            self._current, self._current_key = earlier, key

        there = self._portal.call_blocking(
            self.reuse.find, lab.topology, lab.backend, lab.options, fingerprint, found
        )
        return self._current if there else None

    def release(
        self, lab: Lab, *, failed: bool = False, clean: bool = True, used_on: bool = False
    ) -> None:
        """Take a lab down, or keep it when that was asked for; errors are remembered, not raised.

        `failed` says that a test of it failed, `used_on` that others came after that; only a `clean` one
        is of use to the next session.
        """
        key = self._current_key if self._current is lab else None
        fate = Fate(
            failed=failed,
            clean=clean and not failed,
            used_on=in_the_way(lab.topology, lab.backend) if used_on else None,
            fingerprint=self._fingerprints.get(key) if key else None,
        )
        if self._current is lab:
            self._current = self._current_key = None
        try:
            if self.keeper.leave(lab, fate):
                return
        except BenchscaleError as exc:
            self.teardown_errors.append(exc)
        try:
            self._portal.call_blocking(lab.down)
        except BenchscaleError as exc:
            self.teardown_errors.append(exc)

    def close(self) -> None:
        """Give up the lab that is up; the portal stays the caller's."""
        if self._current is not None:
            self.release(self._current, clean=False)

    async def _make(self, topology: Topology, backend: str, resettable: bool) -> Lab:
        choice = await registry.resolve(topology, backend, self._options.images)
        cls = registry.get(choice.name)
        options = replace(self._options, resettable=resettable)
        return Lab(topology, cls(), portal=self._portal, options=options)
