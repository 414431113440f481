"""The directory that a failed test leaves under `--benchscale-artifacts`.

`failures/TEST-LAB/` holds `failure.json` and `nodes/NAME.log`, the nodes' logs at that moment. In
`failure.json`, times are ISO 8601 in UTC, durations are in seconds, what is not known is null:

    schema, version   "pytest-benchscale/failure", 1; a change of a key's meaning changes the version
    test              id, phase (setup, call or teardown), began, failed, worker (of pytest-xdist)
    errors            type, brief, details, resolution, node, step, notes; the test's own error first
    lab               id, name, backend, state (up, down, not brought up), time, place, networks; null: none
    topology          name, source, declared (without passwords and the values of environments)
    nodes             name, state, reason, addresses, log (a file name beside failure.json)
    commands          node, command, outcome, began, duration; those of this test
    faults            what, began, ended (null: active)
    conditions        node, network, figures, origin (declared, set or fault)
    get_back_in       kept (whether the lab stays after the session), commands
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_benchscale.lab.fault_log import FaultRecord
from pytest_benchscale.lab.findings import Findings
from pytest_benchscale.lab.plan import hostname_of
from pytest_benchscale.lab.secrets import Masker, declared_without_secrets
from pytest_benchscale.lab.settings import Settings
from pytest_benchscale.topology.model import Topology

__all__ = ["SCHEMA", "VERSION", "Failure", "write_failure"]

SCHEMA = "pytest-benchscale/failure"
VERSION = 1
_LONGEST_NAME = 120  # characters of a test's id in a directory's name; file systems take 255 bytes
_MOST_ALIKE = 10_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A phase of a test that failed: `setup`, `call` or `teardown`.

    `began` is when the test did, `failed` when it failed, as `time.time()` tells it. `errors` are as
    `failure.json` has them, the test's own first. The lab is one of `topology`; it stays after the
    session when it is `kept`.
    """

    test: str
    phase: str
    began: float
    failed: float
    topology: Topology
    errors: Sequence[Mapping[str, Any]] = ()

    @property
    def nodes(self) -> set[str]:
        """The nodes that the errors name."""
        return {str(error["node"]) for error in self.errors if error.get("node")}

    def of_this_test(self, faults: Iterable[FaultRecord]) -> list[FaultRecord]:
        """Return the faults that were there while the test ran."""
        return [fault for fault in faults if fault.ended is None or fault.ended >= self.began]


def write_failure(
    directory: Path, failure: Failure, findings: Findings | None, settings: Settings
) -> Path:
    """Write what is known of a failure into a new directory; return that.

    Raises:
        OSError: something could not be written.
    """
    lab_id = findings.lab_id if findings else None
    place = _new_directory(directory / "failures", _file_name(failure, lab_id))
    unwritten: list[OSError] = []
    logs: dict[str, str] = {}
    for node in findings.nodes if findings else ():
        if node.log is not None:
            name = f"nodes/{hostname_of(node.name)}.log"
            try:
                (place / "nodes").mkdir(exist_ok=True)
                (place / name).write_text(node.log, errors="backslashreplace")
            except OSError as error:
                unwritten.append(error)
            else:
                logs[node.name] = name
    content = Masker(failure.topology)(_content(failure, findings, settings, logs))
    (place / "failure.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
    if unwritten:
        raise unwritten[0]
    return place


def _content(
    failure: Failure,
    findings: Findings | None,
    settings: Settings,
    logs: Mapping[str, str],
) -> dict[str, Any]:
    source = failure.topology.source
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "test": {
            "id": failure.test,
            "phase": failure.phase,
            "began": _iso(failure.began),
            "failed": _iso(failure.failed),
            "worker": os.environ.get("PYTEST_XDIST_WORKER"),
        },
        "errors": [dict(error) for error in failure.errors],
        "lab": _lab(findings) if findings else None,
        "topology": {
            "name": failure.topology.name,
            "source": str(source) if source else None,
            "declared": declared_without_secrets(failure.topology),
        },
        **_happened(failure, findings, logs),
        "get_back_in": _get_back_in(failure, findings, settings),
    }


def _lab(findings: Findings) -> dict[str, Any]:
    up = "down" if findings.gone else "up"
    return {
        "id": findings.lab_id,
        "name": findings.topology.name,
        "backend": findings.backend,
        "state": up if findings.is_up else "not brought up",
        "time": _iso(findings.time),
        "place": dict(findings.place),
        "networks": dict(findings.networks),
    }


def _happened(
    failure: Failure, findings: Findings | None, logs: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    if findings is None:
        return {"nodes": [], "commands": [], "faults": [], "conditions": []}
    return {
        "nodes": [
            {
                "name": node.name,
                "state": node.state,
                "reason": node.reason,
                "addresses": dict(node.addresses),
                "log": logs.get(node.name),
            }
            for node in findings.nodes
        ],
        "commands": [
            {
                "node": record.node,
                "command": record.command_line,
                "outcome": record.outcome,
                "began": _iso(record.started),
                "duration": record.duration,
            }
            for record in findings.commands
            if record.started >= failure.began
        ],
        "faults": [
            {
                "what": fault.what,
                "began": _iso(fault.started),
                "ended": _iso(fault.ended) if fault.ended is not None else None,
            }
            for fault in failure.of_this_test(findings.faults)
        ],
        "conditions": [
            {
                "node": one.node,
                "network": one.network,
                "figures": dict(one.figures),
                "origin": one.origin,
            }
            for one in findings.conditions
        ],
    }


def _get_back_in(failure: Failure, findings: Findings | None, settings: Settings) -> dict[str, Any]:
    """Return how to look at the lab: where it is kept, a shell of each node; else, how to have it kept."""
    if findings and findings.is_up and not findings.gone and settings.keep != "never":
        lines = [f"benchscale shell {findings.lab_id} {node.name}" for node in findings.nodes]
        return {"kept": True, "commands": lines}
    words = ["pytest", failure.test]
    if findings and findings.is_up:  # what could not be brought up cannot be kept
        words.append("--benchscale-keep=failed")
    if findings and settings.backends:
        words.append(f"--benchscale-backend={findings.backend}")
    return {"kept": False, "commands": [shlex.join(words)]}


def _new_directory(parent: Path, name: str) -> Path:
    """Make a directory that was not there, also when others do the same now."""
    for number in range(1, _MOST_ALIKE):
        place = parent / (name if number == 1 else f"{name}-{number}")
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        return place
    raise FileExistsError(f"there are {_MOST_ALIKE} directories like {parent / name}")


def _file_name(failure: Failure, lab_id: str | None) -> str:
    """Return a name that every file system takes: of the test's id, the end tells most."""
    plain = re.sub("[^A-Za-z0-9._-]+", "-", failure.test)[-_LONGEST_NAME:].strip("-.") or "test"
    parts = [plain, failure.phase if failure.phase != "call" else None, lab_id]
    return "-".join(part for part in parts if part)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
