"""Small scripts that the faults of a node are made of: a POSIX shell and the usual tools."""

from __future__ import annotations

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.results import ExecResult
from pytest_benchscale.transports.base import Command

__all__ = ["ask", "run_script", "script_command"]

_DEADLINE = 60.0  # seconds


def script_command(script: str, *arguments: str) -> Command:
    """Return the command that runs a script with arguments, its messages in English."""
    return Command(("/bin/sh", "-c", script, "benchscale", *arguments), env={"LC_ALL": "C"})


async def run_script(
    machine: Machine, script: str, *arguments: str, deadline: float = _DEADLINE
) -> ExecResult:
    """Run a script in the node; it is not written down among the test's commands."""
    command = script_command(script, *arguments)
    timeout = machine.context.scaled(deadline)
    return await machine.run(command.argv, command, timeout=timeout, recorded=False)


async def ask(machine: Machine, what: str, script: str, *arguments: str) -> str:
    """Return what a script says.

    Raises:
        LabError: it failed: `what` could not be done.
    """
    result = await run_script(machine, script, *arguments)
    if not result.ok:
        raise LabError(
            f"{what} failed on node {machine.name!r} with {result.outcome}",
            node=machine.name,
            step="fault",
            details=result.output_excerpt(),
        )
    return result.stdout.strip()
