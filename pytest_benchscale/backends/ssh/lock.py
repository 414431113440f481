"""One lab at a time on a machine: a lock there that needs no file and ends with its connection."""

from __future__ import annotations

import shlex

import anyio

from pytest_benchscale.errors import LabError
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.streams import STDOUT, Stream
from pytest_benchscale.transports.ssh.connections import Connections

__all__ = ["MachineLock"]

# The lock is on the directory of the user who logs in, which is there, and held by a process that waits for
# the end of its input. Its argument $1 shows who it is to whoever finds the lock taken.
_HOLD = """\
command -v flock >/dev/null || {{ echo unable; exit; }}
exec 9<"$HOME" || {{ echo unable; exit; }}
if flock -n 9; then echo held; read -r _; exit; fi
echo taken
flock -w {seconds} 9 && echo held && read -r _
"""
_HELD, _TAKEN, _UNABLE = b"held", b"taken", b"unable"


class MachineLock:
    """The lock of one machine, from `take` to `release`."""

    def __init__(self, node: str, connections: Connections) -> None:
        self._node = node
        self._connections = connections
        self._stream: Stream | None = None
        self._said = b""
        self._news = anyio.Event()
        self._has_ended = False

    async def take(self, owner: str, *, seconds: float) -> bool:
        """Take the lock, or wait for it; return False where the machine has no tool for that.

        Raises:
            LabError: another lab had it for all that time.
            LoginFailed: there is no connection.
        """
        script = _HOLD.format(seconds=max(1, round(seconds)))
        argv = ("/bin/sh", "-c", script, "benchscale-lock", shlex.quote(owner))
        self._stream = await self._connections.open_stream(Command(argv))
        self._stream.deliver_to(self)
        with anyio.move_on_after(seconds):
            while not self._has_ended and not self._said.endswith((b"held\n", b"unable\n")):
                await self._news.wait()
        if _HELD in self._said:
            return True
        self.release()
        if _UNABLE in self._said:
            return False
        raise LabError(
            f"node {self._node!r}: another lab uses this machine"
            if _TAKEN in self._said
            else f"node {self._node!r}: its machine could not be locked",
            node=self._node,
            step="lock",
            details=f"waited for {seconds:g} s",
            resolution="let the other test run end, or give the runs machines of their own",
        )

    def release(self) -> None:
        """Let the machine go."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # --- what comes from the machine ---

    def received(self, stream: int, data: bytes) -> None:
        """Take what the process there says."""
        if stream == STDOUT:
            self._said += data
        self._tell()

    def closed(self) -> None:
        """Take note of its end."""
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()
