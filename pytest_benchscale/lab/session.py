"""The labs of one test run: which ones it needs, which one is up, and what there is to tell of them.

Knows nothing of pytest: the plugin's hooks ask, this answers. A session lives in one process; under
pytest-xdist each worker has its own, and the controller merges their outcomes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_benchscale.errors import (
    BackendUnavailable,
    BenchscaleError,
    FaultWarning,
    MachineMissing,
    NotSupported,
)
from pytest_benchscale.lab.outcome import Outcome
from pytest_benchscale.lab.request import LabRequest
from pytest_benchscale.lab.settings import Settings
from pytest_benchscale.lab.sources import TopologySources, backend_of_mark, reset_of_mark
from pytest_benchscale.lab.succession import Succession

if TYPE_CHECKING:
    from pytest_benchscale.backends.registry import Choice
    from pytest_benchscale.lab.failure import Report
    from pytest_benchscale.lab.faults import Standing
    from pytest_benchscale.lab.findings import Findings
    from pytest_benchscale.lab.lab import Lab
    from pytest_benchscale.lab.pool import Pool
    from pytest_benchscale.lab.portal import Portal
    from pytest_benchscale.topology.model import Topology

__all__ = ["LabRequest", "LabSession", "Outcome"]

_NAMES = 5  # topologies named in one line of the header


class ProgressLine(Protocol):
    """Where it is shown how far the work on a lab has come."""

    def show(self, line: str) -> None:
        """Show it, in place of what was shown before."""
        ...

    def end(self) -> None:
        """Show no more of it."""
        ...


class LabSession:
    """The labs of one run. Every method is called from the thread that runs the tests."""

    def __init__(self, settings: Settings, progress: ProgressLine | None = None) -> None:
        self.settings = settings
        self._progress = progress
        self.outcome = Outcome()
        self._sources = TopologySources(settings.search_path, settings.presets)
        self._requests: dict[tuple[Topology, str, bool], LabRequest] = {}
        self._choices: dict[int, Choice | BackendUnavailable] = {}  # by the index of requests
        self._failures: dict[int, str] = {}
        self._succession = Succession(self._puts_aside, self._release)
        self._labs: dict[LabRequest, Lab] = {}
        self._used: dict[LabRequest, None] = {}
        self._portal: Portal | None = None
        self._pool: Pool | None = None
        self._test_started = 0.0
        self._left: Findings | None = None  # the lab that went last
        self._found: dict[Lab, Standing] = {}  # what acted on the labs when a test's own part began

    def requests(
        self, sources: Sequence[object], keywords: Mapping[str, Any], test_file: Path
    ) -> list[tuple[LabRequest, str]]:
        """Return the labs that a mark asks for, each with its part of the test's name; empty: none.

        Raises:
            BenchscaleError: the mark, a file or a backend's name is wrong.
        """
        of_mark, reset = backend_of_mark(sources, keywords), reset_of_mark(keywords)
        topologies = [self._sources.get(source, test_file.parent) for source in sources]
        wanted = []
        for topology in topologies:
            backends = self._backends(topology, of_mark)
            for backend in backends:
                request = self._requests.setdefault(
                    (topology, backend, reset),
                    LabRequest(topology, backend, len(self._requests), reset),
                )
                parts = [topology.name] * (len(topologies) > 1) + [backend] * (len(backends) > 1)
                wanted.append((request, "-".join(parts)))
        return wanted

    def _backends(self, topology: Topology, of_mark: str | None) -> Sequence[str]:
        of_nodes = {node.backend for node in topology.nodes}
        if len(of_nodes) == 1 and (backend := of_nodes.pop()) not in {None, "auto"}:
            return (str(backend),)  # theirs is never overridden
        if self.settings.backends:
            return self.settings.backends
        if backend := of_mark or topology.backend:
            return (backend,)
        return self.settings.default_backends

    def acquire(self, request: LabRequest) -> Lab:
        """Return the lab, brought up unless it is.

        Raises:
            BackendUnavailable: its backend cannot be used here.
            BenchscaleError: it could not be brought up.
        """
        __tracebackhide__ = True
        backend = self.choose(request)
        self._check_abilities(request, backend)
        try:
            self._labs[request] = lab = self._live_pool().acquire(
                request.topology, backend, resettable=request.reset
            )
        finally:
            if self._progress:
                self._progress.end()
        self._used[request] = None
        return lab

    def skips(self, error: BenchscaleError) -> bool:
        """Whether a lab that cannot be acquired skips its tests, rather than failing them."""
        is_missing = isinstance(error, BackendUnavailable | MachineMissing)
        return is_missing and self.settings.missing == "skip"

    def explain(self, request: LabRequest, error: BenchscaleError, test: str) -> str:
        """Return why a test has no lab: in full for the first, then in one line."""
        if self.skips(error):
            reason = "; ".join(str(error).splitlines())
            self.outcome.skipped[reason] = self.outcome.skipped.get(reason, 0) + 1
            return reason
        first = self._failures.setdefault(request.index, test)
        return str(error) if test == first else f"{request} is not there; see the error of {first}"

    def release(self, request: LabRequest) -> None:
        """Give the lab up. What goes wrong with that is told at the end of the run."""
        if not self._succession.postpones(request):
            self._release(request)

    def _release(self, request: LabRequest) -> None:
        if self._pool and (lab := self._labs.pop(request, None)):
            past = self._succession
            failed, clean = past.has_failed(request), past.is_clean(request)
            self._pool.release(lab, failed=failed, clean=clean, used_on=past.went_on(request))

    def _puts_aside(self, request: LabRequest) -> bool:
        """Whether the next test gets another lab, since this one stays as a failed test has left it."""
        from pytest_benchscale.lab.keeping import in_the_way  # noqa: PLC0415

        if request not in self._labs or not self._live_pool().keeper.has_room():
            return False
        return in_the_way(request.topology, self.choose(request)) is None

    def choose(self, request: LabRequest) -> str:
        """Return the name of the backend; `auto` is decided once for each topology.

        Raises:
            BackendUnavailable: `auto` finds none.
        """
        from pytest_benchscale.backends import registry  # noqa: PLC0415  only where a lab is needed

        if request.backend != "auto":
            return request.backend
        if request.index not in self._choices:
            try:
                self._choices[request.index] = self._live_portal().call_blocking(
                    registry.choose, request.topology, self.settings.images
                )
            except BackendUnavailable as error:
                self._choices[request.index] = error
        choice = self._choices[request.index]
        if isinstance(choice, BackendUnavailable):
            raise choice
        return choice.name

    def check_abilities(self, requests: Iterable[LabRequest]) -> None:
        """Check that labs can be kept and reset where they shall be; a missing backend is no concern.

        Raises:
            NotSupported: they cannot.
        """
        for request in dict.fromkeys(requests):
            if self.settings.keep != "never" or request.reset:
                with contextlib.suppress(BackendUnavailable):
                    self._check_abilities(request, self.choose(request))

    def _check_abilities(self, request: LabRequest, backend: str) -> None:
        from pytest_benchscale.backends import registry  # noqa: PLC0415
        from pytest_benchscale.backends.base import Capability  # noqa: PLC0415

        can, keep = registry.get(backend).capabilities, self.settings.keep
        if keep != "never" and Capability.KEEP not in can:
            cure = f"leave out --benchscale-keep={keep}, or name a backend that can"
            raise NotSupported(backend, Capability.KEEP, resolution=cure)
        if request.reset and Capability.RESET not in can:
            cure = f'leave reset="test" out of the mark of {request}, or name a backend that can'
            raise NotSupported(backend, Capability.RESET, resolution=cure)

    def describe(self, requests: Iterable[LabRequest]) -> list[str]:
        """Return what there is to know before the labs run: what `auto` chose, what is not enforced."""
        from pytest_benchscale.backends import registry  # noqa: PLC0415
        from pytest_benchscale.lab.garbage import leftovers  # noqa: PLC0415

        facts: dict[str, list[str]] = {}  # with the names of the topologies that they are about
        for request in dict.fromkeys(requests):
            topology = request.topology
            try:
                backend = self.choose(request)
                notes = self._live_portal().call_blocking(registry.notes, backend, topology)
            except BackendUnavailable as error:
                facts.setdefault(f": {error.brief.splitlines()[0]}", []).append(topology.name)
                continue
            choice = self._choices.get(request.index)
            if choice and not isinstance(choice, BackendUnavailable):
                facts.setdefault(f" on {choice.why}", []).append(topology.name)
            for note in notes:
                facts.setdefault(f" on {backend}: {note}", []).append(topology.name)
        lines = [f"{_some(names)}{fact}" for fact, names in facts.items()]
        lines += filter(None, [leftovers()] if lines or self._requests else [])
        return [f"benchscale: {line}" for line in lines]

    def begin_test(self, request: LabRequest | None) -> LabRequest | None:
        """Note that a test begins, and return what it shall ask for in place of what was planned.

        Its commands are those that come from now on. A lab that is to be reset is so, unless it is new.

        Raises:
            BenchscaleError: it could not be reset. The next test gets a new one.
        """
        __tracebackhide__ = True
        self._test_started = time.time()
        if request is None:
            return None
        request = self._succession.begin(request)
        if request.reset and (lab := self._labs.get(request)):
            try:
                self._live_portal().call_blocking(lab.reset)
            except BaseException:
                self._succession.spend(request)
                raise
        return request

    def fail(self, request: LabRequest) -> None:
        """Note that a test has failed, in whichever phase."""
        self._succession.fail(request)

    def ending_test(self, request: LabRequest | None) -> AbstractContextManager[None]:
        """Return the block in which the fixtures of a test are ended."""
        return self._succession.ending(request)

    def begin_call(self) -> None:
        """Note that a test's fixtures are done: faults that are there now are not the test's own."""
        self._found = {lab: lab.standing() for lab in self._labs.values() if lab.is_up}

    def heal(self, test: str) -> FaultWarning | None:
        """Take back the faults that a test has left behind; return what to warn of.

        Raises:
            LabError: one could not be taken back.
        """
        found, self._found = self._found, {}
        left = []
        for lab, standing in found.items():
            if lab.is_up:
                left += self._live_portal().call_blocking(lab.heal_but, standing)
        if not left:
            return None
        return FaultWarning(
            f"{test} has left faults behind, which were taken back: {'; '.join(left)}"
        )

    def properties(self, request: LabRequest) -> dict[str, str]:
        """Return what tells a reader of the results in which lab a test ran, as far as there is one."""
        lab = self._labs.get(request)
        choice = self._choices.get(request.index)
        backend = lab.backend if lab else getattr(choice, "name", request.backend)
        found = {
            "benchscale.lab": lab.lab_id if lab else None,
            "benchscale.backend": backend,
            "benchscale.topology": str(request.topology.source or request.topology.name),
        }
        return {name: value for name, value in found.items() if value}

    def report(
        self, request: LabRequest, test: str, phase: str, errors: Sequence[Mapping[str, Any]]
    ) -> Report:
        """Return what there is to tell of the lab of a test that failed in a phase, with these errors.

        Whatever goes wrong with that is told, too: the test's own failure is what counts.
        """
        from pytest_benchscale.lab import failure  # noqa: PLC0415  only where a test failed

        failed = failure.Failure(
            test, phase, self._test_started, time.time(), request.topology, errors
        )
        try:
            return failure.report(failed, self._findings(request), self.settings)
        except Exception as error:  # noqa: BLE001  see above
            words = f"there is nothing to tell of the lab: {type(error).__name__}: {error}"
            return failure.Report([("benchscale: report", words)])

    def _findings(self, request: LabRequest) -> Findings | None:
        """Return how a lab is, or how it was when it went, or could not be brought up, in this test."""
        lab = self._labs.get(request)
        if lab is not None and lab.is_up:
            return self._live_portal().call_blocking(lab.examine)
        left = self._left
        if left is None or left.topology != request.topology:
            return None
        if request.backend not in {"auto", left.backend}:
            return None
        is_news = left.time >= self._test_started
        return replace(left, gone=left.is_up) if is_news or lab is not None else None

    def _take_leave(self, findings: Findings) -> None:
        self._left = findings

    def message(self) -> dict[str, Any]:
        """Return the outcome for another process, together with what `describe` tells."""
        return asdict(replace(self.outcome, notes=self.describe(self._used)))

    def close(self) -> None:
        """Give up what is still up; `outcome` is complete then. Safe to call twice."""
        try:
            for request in [*self._labs]:
                self._release(request)
            pool, self._pool = self._pool, None
            if pool:
                pool.close()
                self.outcome.kept += pool.keeper.kept_lines()
                self.outcome.reuse += pool.reuse.notes + pool.keeper.reuse_lines()
                self.outcome.teardown_errors += map(str, pool.teardown_errors)
        finally:
            portal, self._portal = self._portal, None
            if portal:
                portal.close()

    def _live_portal(self) -> Portal:
        from pytest_benchscale.lab.portal import Portal  # noqa: PLC0415

        self._portal = self._portal or Portal()
        return self._portal

    def _live_pool(self) -> Pool:
        from pytest_benchscale.lab.options import LabOptions  # noqa: PLC0415
        from pytest_benchscale.lab.pool import Pool  # noqa: PLC0415

        if self._pool is None:
            chosen = self.settings
            options = LabOptions(
                conditions=chosen.conditions,
                prepared=chosen.prepared == "use",
                timeout_scale=chosen.timeout_scale,
                images=chosen.images,
                keep=chosen.keep,
                keep_for=chosen.keep_for,
                reuse=chosen.reuse,
                artifacts=chosen.artifacts,
                progress=self._progress.show if self._progress else None,
                leaving=self._take_leave,
            )
            self._pool = Pool(self._live_portal(), options)
        return self._pool


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")
