"""What the report of a failed test shows of its lab."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_benchscale.lab.failure_file import Failure, write_failure
from pytest_benchscale.lab.findings import Findings
from pytest_benchscale.lab.secrets import Masker
from pytest_benchscale.lab.settings import Settings

__all__ = ["Failure", "Report", "report"]

_LOG_LINES = 20  # the end of a node's log
_LOGS = 8  # nodes whose log is shown
_LINES = 50  # of anything else; the newest ones
_NAMES = 8  # nodes named in one line
_RUNNING = "running"
_UNPRINTABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")
"""What a console writes for a terminal: ANSI sequences (ECMA-48), control characters."""


@dataclass(slots=True)
class Report:
    """What there is to tell: titles and texts, and the directory with more of it, if that was asked for."""

    sections: list[tuple[str, str]] = field(default_factory=list)
    artifacts: Path | None = None


def report(failure: Failure, findings: Findings | None, settings: Settings) -> Report:
    """Return what to tell of a failure in a lab; None: there is no lab to tell of.

    A directory that cannot be written to is one more thing to tell.
    """
    told = Report(_sections(failure, findings) if findings else [])
    if settings.artifacts is not None:
        title = "benchscale: artifacts"
        try:
            told.artifacts = write_failure(settings.artifacts, failure, findings, settings)
        except OSError as error:
            told.sections.append((title, f"they could not be written: {error}"))
        else:
            told.sections.append((title, str(told.artifacts)))
    return told


def _sections(failure: Failure, findings: Findings) -> list[tuple[str, str]]:
    name = findings.topology.name
    mask = Masker(findings.topology)
    lab = f"lab {name!r}"
    commands = [record for record in findings.commands if record.started >= failure.began]
    faults = failure.of_this_test(findings.faults)
    parts: list[tuple[str, Sequence[str]]] = [
        (f"nodes of {lab} on {findings.backend!r}", list(_states(findings))),
        (f"conditions in {lab}", list(_conditions(findings))),
        (f"faults in {lab}", [str(fault) for fault in faults]),
        (f"commands in {lab} on {findings.backend!r}", [str(record) for record in commands]),
    ]
    found = [(title, mask(_tail(lines, _LINES))) for title, lines in parts if lines]
    concerned = {record.node for record in commands}
    for node, log in _logs(findings, failure.nodes, concerned):
        found.append((f"end of the log of node {node!r}", mask(_tail(log, _LOG_LINES))))
    return [(f"benchscale: {title}", text) for title, text in found]


def _states(findings: Findings) -> Iterable[str]:
    """Return the state of the lab, where it is not up, and those of its nodes, each with who is in it."""
    if not findings.is_up:
        yield "the lab could not be brought up; this is how it was before it was rolled back"
    elif findings.gone:
        clock = time.strftime("%H:%M:%S", time.localtime(findings.time))
        yield f"the lab was taken down at {clock}; this is how it was then"
    groups: dict[str, list[str]] = {}
    for node in findings.nodes:
        groups.setdefault(node.condition, []).append(node.name)
    for state in sorted(groups, key=lambda state: state == _RUNNING):
        yield f"{state}: {_some(groups[state])}"


def _conditions(findings: Findings) -> Iterable[str]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in findings.conditions:
        key = (one.network, _figures(one.figures), one.origin)
        groups.setdefault(key, []).append(one.node)
    for (network, figures, origin), nodes in groups.items():
        yield f"what leaves {_some(nodes)} on {network!r}: {figures}  [{origin}]"


def _figures(figures: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float | int) else f"{name}={value}"
        for name, value in figures.items()
    )


def _logs(
    findings: Findings, failed: Iterable[str], talked_to: Iterable[str]
) -> Iterable[tuple[str, list[str]]]:
    """Return the logs that have something in them: first of the nodes that are most likely to explain it."""
    failed, talked_to = set(failed), set(talked_to)
    ranked = sorted(
        (node for node in findings.nodes if node.log and node.log.strip()),
        key=lambda node: (
            node.name not in failed,
            node.state == _RUNNING,
            node.name not in talked_to,
        ),
    )
    for node in ranked[:_LOGS]:
        lines = (node.log or "").splitlines()
        yield node.name, [_UNPRINTABLE.sub("", line) for line in lines]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _tail(lines: Sequence[str], limit: int) -> str:
    left_out = len(lines) - limit
    if left_out <= 0:
        return "\n".join(lines)
    return "\n".join([f"... {left_out} before ...", *lines[-limit:]])
