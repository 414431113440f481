"""The results as text: medians with their range, ratios, and what had to be reached."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.results import Results

TITLES: dict[str, str] = {
    "first": "first lab of a process, 2 nodes, imports included",
    "up": "{} nodes up",
    "down": "{} nodes down",
    "exec": "exec of `true`, one after the other",
    "exec.50": "exec of `true`, 50 at once",
    "copy.1MiB": "copy in, 1 MiB",
    "copy.100MiB": "copy in, 100 MiB",
    "copy.files": "copy in, 1,000 files of 1 KiB",
    "memory.process": "memory (MiB) that 200 nodes add to the pytest process",
    "memory.node": "memory (MiB) per idle node, all processes, of 200",
    "startup.collect": "pytest --collect-only of an empty test",
    "startup.collect.added": "... what the plugin adds to it, by the clock",
    "startup.collect.cpu": "... what the plugin adds to it, processor time",
    "startup.version": "pytest --version",
    "startup.version.added": "... what the plugin adds to it: the noise",
    "startup.version.cpu": "... what the plugin adds to it, processor time: the noise",
}


@dataclass(frozen=True)
class Target:
    """What our median of a row must not exceed: as it is, or over that of (row, contestant)."""

    row: str
    limit: float
    text: str
    over: tuple[str, str] | None = None

    def verdict(self, results: Results) -> str | None:
        """Return the target with what was reached, None when the row was not measured."""
        ours = results.median(self.row, "ours")
        if self.row not in results.rows:
            return None
        unit = results.median(*self.over) if self.over else 1.0
        if ours is None or unit is None:
            return f"target {self.text}: not measured"
        reached = ours / unit
        number = f"{reached:.2f}" if self.over else format_value(self.row, reached)
        return f"target {self.text}: {number}, {'met' if reached <= self.limit else 'NOT MET'}"


TARGETS = (
    Target("up.50", 3.0, "<= 3 x floor", ("up.50", "floor")),
    Target("up.50", 0.4, "<= 0.4 x mininet", ("up.50", "mininet")),
    Target("up.200", 5.0, "<= 5 x our own 50 nodes", ("up.50", "ours")),
    Target("down.50", 0.2, "<= 0.2 x mininet", ("down.50", "mininet")),
    Target("exec", 0.003, "<= 3 ms"),
    Target("copy.100MiB", 1.5, "<= 1.5 x floor", ("copy.100MiB", "floor")),
    Target("copy.files", 1.2, "<= 1.2 x tar", ("copy.files", "tar")),
    Target("memory.process", 60.0, "<= 60 MiB"),
    Target("memory.node", 4.0, "<= 4 MiB"),
    Target("startup.collect.added", 0.015, "<= 15 ms"),
)


def title(row: str) -> str:
    """Return a row's name for people."""
    if row in TITLES:
        return TITLES[row]
    kind, _, size = row.partition(".")
    return TITLES[kind].format(size)


def format_value(row: str, value: float) -> str:
    """Return a value with its unit, to about three digits."""
    if row.startswith("memory."):
        unit = "MiB"
    elif abs(value) >= 1:
        unit = "s"
    else:
        value, unit = value * 1000, "ms"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f} {unit}"


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
    return f"{name:<16}{count:>4}" + "".join(f"{column:>13}" for column in columns)
