"""The labs of one test run: which ones it needs, which one is up, and what there is to tell of them.

Knows nothing of pytest: the plugin's hooks ask, this answers. A session lives in one process; under
pytest-xdist each worker has its own, and the controller merges their outcomes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, LabError, NotSupported
from pytest_benchscale.lab.settings import Settings
from pytest_benchscale.lab.sources import TopologySources, backend_of_mark

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab
    from pytest_benchscale.lab.pool import Pool
    from pytest_benchscale.topology.model import Topology

__all__ = ["LabRequest", "LabSession", "Outcome"]

_LOG_LINES = 20  # the end of a node's log, in the report of a failed test
_COMMANDS = 50  # the newest commands, in the same report


@dataclass(frozen=True, eq=False, slots=True)
class LabRequest:
    """The parameter of a marked test: equal topology and backend give the same object.

    `backend` may be `auto`; `index` is unique in the session.
    """

    topology: Topology
    backend: str
    index: int

    def __str__(self) -> str:
        return f"lab {self.topology.name!r} on backend {self.backend!r}"


@dataclass(slots=True)
class Outcome:
    """What a run has to tell at its end. Plain data: an xdist worker sends it to the controller."""

    skipped: dict[str, int] = field(default_factory=dict)
    teardown_errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another process has to tell, given as its `asdict`."""
        self.skipped = dict(Counter(self.skipped) + Counter(other["skipped"]))
        self.teardown_errors += other["teardown_errors"]
        self.notes += [line for line in other["notes"] if line not in self.notes]


class LabSession:
    """The labs of one run. Every method is called from the thread that runs the tests."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.outcome = Outcome()
        self._sources = TopologySources(settings.search_path, settings.presets)
        self._requests: dict[tuple[Topology, str], LabRequest] = {}
        self._choices: dict[LabRequest, Choice | BackendUnavailable] = {}
        self._failures: dict[LabRequest, str] = {}
        self._pool: Pool | None = None
        self._test_started = 0.0

    def requests(
        self, sources: Sequence[object], keywords: Mapping[str, Any], test_file: Path
    ) -> list[tuple[LabRequest, str]]:
        """Return the labs that a mark asks for, each with its part of the test's name; empty: none.

        Raises:
            BenchscaleError: the mark, a file or a backend's name is wrong.
        """
        of_mark = backend_of_mark(sources, keywords)
        topologies = [self._sources.get(source, test_file.parent) for source in sources]
        wanted = []
        for topology in topologies:
            backends = self._backends(topology, of_mark)
            for backend in backends:
                request = self._requests.setdefault(
                    (topology, backend), LabRequest(topology, backend, len(self._requests))
                )
                parts = [topology.name] * (len(topologies) > 1) + [backend] * (len(backends) > 1)
                wanted.append((request, "-".join(parts)))
        return wanted

    def _backends(self, topology: Topology, of_mark: str | None) -> Sequence[str]:
        if self.settings.backends:
            return self.settings.backends
        if backend := of_mark or topology.backend:
            return (backend,)
        return self.settings.default_backends

    def acquire(self, request: LabRequest, test: str) -> None:
        """Bring the lab up, unless it is. `test` is whom the report of a failure will be found at.

        Raises:
            BackendUnavailable: its backend cannot be used here.
            BenchscaleError: it could not be brought up; in full the first time, then in one line.
        """
        if failed_at := self._failures.get(request):
            raise LabError(f"{request} could not be brought up: see the error at {failed_at}")
        try:
            backend = self.choose(request).name
            self.check_keep(request)
            self._labs[request] = self._open_pool().acquire(request.topology, backend)
        except BackendUnavailable:
            if self.settings.missing == "fail":
                self._failures[request] = test
            raise
        except BenchscaleError:
            self._failures[request] = test
            raise

    def lab(self, request: LabRequest) -> Lab:
        """Return the lab that was brought up last."""
        return self._labs[request]

    def release(self, request: LabRequest) -> None:
        """Take the lab down. What goes wrong with that is told at the end of the run."""
        if lab := self._labs.pop(request, None):
            self._open_pool().release(lab)

    def choose(self, request: LabRequest) -> Choice:
        """Return the backend that a request means; `auto` is decided once.

        Raises:
            BackendUnavailable: there is none for `auto`.
        """
        from pytest_benchscale.backends.registry import Choice, choose  # noqa: PLC0415

        if request.backend != "auto":
            return Choice(request.backend, "")
        if request not in self._choices:
            try:
                self._choices[request] = self._portal.call_blocking(
                    choose, request.topology, self.settings.images
                )
            except BackendUnavailable as error:
                self._choices[request] = error
        chosen = self._choices[request]
        if isinstance(chosen, BackendUnavailable):
            raise chosen
        return chosen
