"""Commands on terminals, in nodes where a shell prepares the terminal and another one ends what is on it."""

from __future__ import annotations

from dataclasses import replace

from pytest_benchscale.transports.base import Command, TerminalSize
from pytest_benchscale.transports.shell.agent import MARKER

__all__ = ["prepared", "with_environment"]

# The size is told to the terminal from outside, too, but a command may have looked before it comes. Erasing
# takes whole characters of UTF-8; a node without `stty` does without.
_PREPARE = """\
stty rows {size.rows} columns {size.columns}
stty iutf8
"""


def prepared(command: Command, size: TerminalSize, term: str, marker: str) -> Command:
    """Return the command that runs this one, once its terminal is as it should be."""
    script = f"{{\n{_PREPARE.format(size=size)}}} 2>/dev/null\n"
    return replace(
        command,
        argv=("/bin/sh", "-c", f'{script}exec "$@"', "sh", *command.argv),
        env={"TERM": term, **command.env, MARKER: marker},
    )


def with_environment(command: Command) -> Command:
    """Return the command that brings its environment and directory itself, where nobody else does."""
    script = 'cd "$1" || exit; shift; exec env "$@"'
    pairs = (f"{name}={value}" for name, value in command.env.items())
    argv = ("/bin/sh", "-c", script, "sh", command.cwd or ".", *pairs, *command.argv)
    return replace(command, argv=argv, env={}, cwd=None)
