"""One lab at a time on a machine: a lock there that needs no file and ends with its connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.errors import LabError
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.streams import STDOUT, Stream

__all__ = ["MachineLock"]

# The lock is on the root directory, which is there for every user, and held by a process that waits for
# the end of its input. Its argument shows who has it to whoever finds it taken. After a connection broke,
# the sshd may not know that yet, and our own process hold the lock still: that one is ended.
_HOLD = """\
command -v flock >/dev/null && exec 9</ || {{ echo unable; exit; }}
if flock -n 9; then echo held; read -r _; exit; fi
for d in /proc/[0-9]*; do
p=${{d#/proc/}}
[ "$p" = $$ ] || [ "$p" = $PPID ] || {{ grep -qsF -- "$1" "$d/cmdline" && kill "$p"; }}
done
echo taken
flock -w {seconds} 9 && echo held && read -r _
"""
_SECONDS = 60.0
_HELD, _TAKEN, _UNABLE = b"held\n", b"taken\n", b"unable\n"


class MachineLock:
    """The lock of the machine of one node, from `take` to `release`; taken anew when it was lost."""

    def __init__(self, lab: LabPlan, node: str) -> None:
        labels = (f"{key}={value}" for key, value in lab.labels.items())
        self._node = node
        self._owner = " ".join([lab.lab_id, *labels])
        self._seconds = _SECONDS * lab.timeout_scale  # that another lab is waited for
        self._stream: Stream | None = None
        self._said = b""
        self._news = anyio.Event()
        self._has_ended = False
        self.is_possible = True
        """Whether the machine has the tool for it; known after `take`."""

    async def take(self, start: Callable[[Command], Awaitable[Stream]]) -> None:
        """Take the lock by a command that `start` starts, or wait for it.

        Raises:
            LabError: another lab had it for all that time.
        """
        self.release()
        self._said, self._has_ended = b"", False
        script = _HOLD.format(seconds=max(1, round(self._seconds)))
        argv = ("/bin/sh", "-c", script, "benchscale-lock", f"benchscale-lock {self._owner}")
        self._stream = await start(Command(argv))
        self._stream.deliver_to(self)
        # Somewhat longer than the machine itself waits: then it has said that it did in vain.
        with anyio.move_on_after(self._seconds + 10):
            while not self._has_ended and not self._said.endswith((_HELD, _UNABLE)):
                await self._news.wait()
        self.is_possible = _UNABLE not in self._said
        if _HELD in self._said or not self.is_possible:
            return
        self.release()
        taken = _TAKEN in self._said
        raise LabError(
            f"node {self._node!r}: another lab uses this machine"
            if taken
            else f"node {self._node!r}: its machine could not be locked",
            node=self._node,
            step="lock",
            details=f"waited for {self._seconds:g} s" if taken else None,
            resolution="let the other test run end, or give the runs machines of their own"
            if taken
            else "log in by hand and look what comes instead of /bin/sh",
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
