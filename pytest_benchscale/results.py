"""What a finished command leaves behind."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_benchscale.errors import CommandFailed

__all__ = ["ExecResult"]

_EXCERPT_LINES = 40


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The outcome of one command on one node.

    `returncode` is negative when the command was killed by that signal, as in `subprocess`.
    `duration` is in seconds, from the request to the end of the command.
    """

    command: str | tuple[str, ...]
    returncode: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    duration: float
    node: str | None = None

    @property
    def stdout(self) -> str:
        """Standard output as text: UTF-8, undecodable bytes replaced."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text: UTF-8, undecodable bytes replaced."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether the command returned 0."""
        return self.returncode == 0

    def check(self) -> ExecResult:
        """Return self when the command succeeded.

        Raises:
            CommandFailed: it did not; the message shows its output.
        """
        __tracebackhide__ = True
        if not self.ok:
            raise CommandFailed(self, node=self.node)
        return self

    @property
    def command_line(self) -> str:
        """The command as one would type it into a shell."""
        return self.command if isinstance(self.command, str) else shlex.join(self.command)

    @property
    def outcome(self) -> str:
        """How the command ended, in words: `exit code 3`, `signal SIGKILL`."""
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        try:
            return f"signal {signal.Signals(-self.returncode).name}"
        except ValueError:
            return f"signal {-self.returncode}"

    def output_excerpt(self) -> str:
        """Return the last lines of both streams, labelled, for an error message."""
        parts = [
            f"--- {name} ---\n{_tail(text.splitlines())}"
            for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
            if text.strip()
        ]
        return "\n".join(parts) or "(no output)"


def _tail(lines: Sequence[str]) -> str:
    if len(lines) <= _EXCERPT_LINES:
        return "\n".join(lines)
    left_out = len(lines) - _EXCERPT_LINES
    return "\n".join([f"... {left_out} lines before ...", *lines[-_EXCERPT_LINES:]])
