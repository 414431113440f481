"""The results as text: medians with their range, ratios, and what had to be reached."""

from __future__ import annotations

from statistics import median

from benchmarks.results import Results
from benchmarks.targets import TARGETS
from benchmarks.units import backend_of, format_value

TITLES: dict[str, str] = {
    "first": "first lab of a process, 2 nodes, imports included",
    "up": "{} nodes up",
    "up.1.first": "a machine up, by its first boot",
    "up.1.again": "a machine up, from its kept state",
    "up.2.first": "2 machines up, by their first boot",
    "up.2.again": "2 machines up, from their kept states",
    "down": "{} nodes down",
    "limited": "{} nodes up, a rate on every link",
    "rebuild.10.plain": "10 used nodes down and up again",
    "reset.10.plain": "reset of 10 used nodes",
    "rebuild.10.setup": "10 used nodes with a small `setup` down and up again",
    "reset.10.setup": "reset of 10 used nodes with a small `setup`",
    "build": "{} nodes up, then kept",
    "reuse": "{} kept nodes taken over",
    "reset": "reset of a machine",
    "checkpoint": "remembering a machine for that",
    "rebuild": "a machine down, and up from its kept state",
    "rebuild.10.plain.at-once": "10 nodes, used just now, down and up again",
    "reset.10.plain.at-once": "reset of 10 nodes that were used just now",
    "rebuild.10.setup.at-once": "10 nodes with a small `setup`, used just now, down and up again",
    "reset.10.setup.at-once": "reset of 10 nodes with a small `setup` that were used just now",
    "build.10.at-once": "10 nodes up, then kept",
    "reuse.10.at-once": "10 nodes, kept just now, taken over",
    "cut.10": "partition of 10 nodes",
    "cut.10.healed": "... healed",
    "cut.attested.10": "partition of 10 nodes, measured",
    "cut.attested.10.healed": "... healed, measured",
    "reset.10": "10 nodes led back to how they were, beside down and up",
    "exec": "exec of `true`, one after the other",
    "exec.50": "exec of `true`, 50 at once",
    "copy.1MiB": "copy in, 1 MiB",
    "copy.100MiB": "copy in, 100 MiB",
    "copy.files": "copy in, 1,000 files of 1 KiB",
    "copy.files.out": "copy out, 1,000 files of 1 KiB",
    "exec.first": "the first exec of `true` in a new lab",
    "exec.50.cold": "exec of `true`, 50 at once, the first in a new lab",
    "everywhere": "exec of `true` on all of {} nodes at once, the first in a new lab",
    "memory.processes": "processes that an idle container has more, with those that serve it",
    "memory.pool": "memory (MiB) that an idle container has more, with what serves it",
    "memory.process": "memory (MiB) that 200 nodes add to the pytest process",
    "memory.node": "memory (MiB) per idle node, all processes, of 200",
    "startup.collect": "pytest --collect-only of an empty test",
    "startup.collect.added": "... what the plugin adds to it, by the clock",
    "startup.collect.cpu": "... what the plugin adds to it, processor time",
    "startup.version": "pytest --version",
    "startup.version.added": "... what the plugin adds to it: the noise",
    "startup.version.cpu": "... what the plugin adds to it, processor time: the noise",
}


def title(row: str) -> str:
    """Return a row's name for people."""
    backend, row = backend_of(row)
    kind, _, size = row.partition(".")
    text = TITLES[row] if row in TITLES else TITLES[kind].format(size)
    return f"{backend}: {text}" if backend else text


def render(results: Results) -> str:
    """Return all rows as one table."""
    lines = [_line("", "n", "median", "min", "max", "x floor", "x best peer")]
    for row in results.rows:
        lines += ["", title(row), *_samples(results, row)]
        verdicts = (target.verdict(results) for target in TARGETS if target.row == row)
        lines += [f"    {verdict}" for verdict in verdicts if verdict]
    for job, absent in results.absent.items():
        lines.append("")
        lines += [f"{job}: {name} {reason}" for name, reason in absent.items()]
    return "\n".join(lines)


def _samples(results: Results, row: str) -> list[str]:
    floor, peer = results.median(row, "floor"), results.best_peer(row)
    lines = []
    for contestant, values in results.rows[row].items():
        middle = median(values)
        numbers = [format_value(row, value) for value in (middle, min(values), max(values))]
        ratios = [f"{middle / other:.2f}" if other else "" for other in (floor, peer)]
        lines.append(_line(f"    {contestant}", str(len(values)), *numbers, *ratios))
    return lines


def _line(name: str, count: str, *columns: str) -> str:
    return f"{name:<20}{count:>4}" + "".join(f"{column:>13}" for column in columns)
