"""What a session tells of the labs of its tests, for the tests' results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_benchscale.lab.settings import Settings

if TYPE_CHECKING:
    from pytest_benchscale.lab.failure import Report
    from pytest_benchscale.lab.findings import Findings
    from pytest_benchscale.lab.lab import Lab
    from pytest_benchscale.topology.model import Topology

__all__ = ["Reports"]


class Reports:
    """Tells of one test after the other, and remembers how the lab was that went last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left: Findings | None = None

    def take_leave(self, findings: Findings) -> None:
        """Remember how a lab was that goes, or that could not be brought up."""
        self._left = findings

    def properties(self, topology: Topology, backend: str, lab: Lab | None) -> dict[str, str]:
        """Return what tells a reader of the results in which lab a test ran, as far as there is one."""
        found = {
            "benchscale.lab": lab.lab_id if lab else None,
            "benchscale.backend": lab.backend if lab else backend,
            "benchscale.topology": str(topology.source or topology.name),
        }
        return {name: value for name, value in found.items() if value}

    def of_failure(
        self,
        topology: Topology,
        backend: str,
        lab: Lab | None,
        *,
        test: str,
        phase: str,
        began: float,
        errors: Sequence[Mapping[str, Any]],
    ) -> Report:
        """Return what there is to tell of a test that began at `began` and failed in a phase.

        Whatever goes wrong with that is told, too: the test's own failure is what counts.
        """
        from pytest_benchscale.lab import failure  # noqa: PLC0415  only where a test failed

        failed = failure.Failure(test, phase, began, time.time(), topology, errors)
        try:
            findings = self._findings(topology, backend, lab, began)
            return failure.report(failed, findings, self._settings)
        except Exception as error:  # noqa: BLE001  see above
            words = f"there is nothing to tell of the lab: {type(error).__name__}: {error}"
            return failure.Report([("benchscale: report", words)])

    def _findings(
        self, topology: Topology, backend: str, lab: Lab | None, began: float
    ) -> Findings | None:
        """Return how a lab is; how it was when it went, or could not be brought up, during this test."""
        if lab is not None and lab.is_up:
            return lab.portal.call_blocking(lab.examine)
        left = self._left
        if left is None or left.topology != topology or backend not in {"auto", left.backend}:
            return None
        is_news = left.time >= began
        return replace(left, gone=left.is_up) if is_news or lab is not None else None
