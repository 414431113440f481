"""A command that never ran."""

from __future__ import annotations

from pytest_benchscale.transports.shell.streams import Inbox

__all__ = ["RefusedCommand"]


class RefusedCommand:
    """A command that was not started, such as for a user whom the node does not know.

    Ends as in a shell: with a code of 126 or 127, and the reason on standard error.
    """

    def __init__(self, reason: str, code: int = 126) -> None:
        self.stdin = None
        self.stdout = Inbox()
        self.stderr = Inbox()
        self.stdout.end()
        self.stderr.put(f"{reason}\n".encode())
        self.stderr.end()
        self._code = code

    async def wait(self) -> int:
        """Return the exit code."""
        return self._code

    async def send_signal(self, signum: int) -> None:
        """Do nothing: it has ended."""

    async def kill_tree(self) -> None:
        """Do nothing: it has ended."""

    async def aclose(self) -> None:
        """Do nothing: it has ended."""
