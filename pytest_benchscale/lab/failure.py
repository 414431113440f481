"""What the report of a failed test shows of its lab."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.history import CommandRecord
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node

__all__ = ["sections"]

_LOG_LINES = 20  # the end of a node's log
_LOGS = 8  # nodes whose log is shown
_LOG_DEADLINE = 10.0  # seconds to fetch the logs
_COMMANDS = 50  # the newest ones


async def sections(lab: Lab, since: float) -> list[tuple[str, str]]:
    """Return titles and texts about a lab in which a test failed that began at `since`."""
    found = []
    records, logs = await _look_at(lab, since)
    if records:
        title = f"benchscale: commands in lab {lab.name!r} on {lab.backend!r}"
        found.append((title, _tail([str(record) for record in records], _COMMANDS)))
    if faults := [str(record) for record in lab.faults.since(since)]:
        found.append((f"benchscale: faults in lab {lab.name!r}", _tail(faults, _COMMANDS)))
    talked_to = {record.node for record in records}
    for name in sorted(logs, key=lambda name: name not in talked_to)[:_LOGS]:
        title = f"benchscale: end of the log of node {name!r}"
        found.append((title, _tail(logs[name], _LOG_LINES)))
    return found


async def _look_at(lab: Lab, since: float) -> tuple[list[CommandRecord], dict[str, list[str]]]:
    """Return the lab's commands since a time, and the lines of each node that has said something."""
    logs: dict[str, list[str]] = {}

    async def read(node: Node) -> None:
        try:
            text = await node.logs()
        except BenchscaleError as error:
            text = f"(it cannot be read: {error.brief})"
        if text.strip():
            logs[node.name] = text.splitlines()

    with anyio.move_on_after(_LOG_DEADLINE):
        async with anyio.create_task_group() as group:
            for node in lab.nodes.values():
                group.start_soon(read, node)
    records = [record for record in lab.history if record.started >= since]
    return records, {name: logs[name] for name in lab.nodes if name in logs}


def _tail(lines: Sequence[str], limit: int) -> str:
    left_out = len(lines) - limit
    if left_out <= 0:
        return "\n".join(lines)
    return "\n".join([f"... {left_out} before ...", *lines[-limit:]])
