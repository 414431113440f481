"""Following cloud-init from inside a guest: one command that tells line by line how far it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from ipaddress import IPv6Address

import anyio
import asyncssh

from pytest_benchscale.backends.libvirt.guest_report import (
    Diagnosis,
    Status,
    diagnosis_command,
    waiting_command,
)
from pytest_benchscale.errors import BenchscaleError, LabError, NodeDied
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import ByteReader, Launcher, RunningCommand
from pytest_benchscale.transports.ssh.login import LoginFailed

__all__ = ["CutOff", "SetupWatch", "is_refusal"]

_ENDS = frozenset({"done", "none", "disabled", "error", "crashed"})
_NOT_STARTED = frozenset({126, 127})
_DIAGNOSIS_SECONDS = 20.0
_REFUSALS = (asyncssh.PermissionDenied, asyncssh.HostKeyNotVerifiable)


class CutOff(Exception):
    """The connection to the guest was lost, or the guest goes down."""


def is_refusal(failed: LoginFailed) -> bool:
    """Return whether the sshd answered, and said no or showed another key than it must."""
    return isinstance(failed.__cause__, _REFUSALS)


class SetupWatch:
    """What cloud-init does in one guest, over all its boots."""

    def __init__(
        self,
        node: str,
        launcher: Launcher,
        addresses: Iterable[IpAddress],
        say: Callable[[str], None],
    ) -> None:
        self.boot_id = ""
        self.reboots = 0
        self.doing = "cloud-init had not begun"
        self.status = Status()
        self._node = node
        self._launcher = launcher
        self._addresses = tuple(addresses)
        self._say = say
        self._end = ""
        self._after_end: list[str] = []
        self._status_lines: list[str] | None = None

    async def start(self, seconds: float) -> RunningCommand:
        """Log in and start the command that `follow` listens to; it ends itself after `seconds`."""
        return await self._launcher.start(waiting_command(seconds, self._addresses))

    async def follow(self, command: RunningCommand) -> str:
        """Listen to its end; return `done`, `none`, `disabled`, `error` or `crashed`.

        Raises:
            CutOff: there will be no end, since the guest is away or reboots.
            LabError: the guest has no shell that could run it.
            NodeDied: the guest has ended.
        """
        self._end, self._after_end, self._status_lines = "", [], None
        try:
            async for line in _lines(command.stdout):
                self._take(line)
            if self._end:
                return self._end
            code = await command.wait()
        except NodeDied:
            raise
        except LabError as error:
            raise CutOff from error
        finally:
            with anyio.CancelScope(shield=True):
                await command.aclose()
        if code in _NOT_STARTED:
            raise LabError(
                f"node {self._node!r} starts no /bin/sh (exit code {code})",
                node=self._node,
                step="cloud-init",
                resolution="choose an image with a shell",
            )
        raise CutOff

    async def diagnose(self) -> Diagnosis:
        """Return what went wrong: what was told, or what the guest answers now, if it does."""
        if self._after_end:
            return Diagnosis.parse("\n".join(self._after_end))
        try:
            outcome = await execution.run(
                self._launcher, diagnosis_command(), timeout=_DIAGNOSIS_SECONDS
            )
        except BenchscaleError as error:
            return Diagnosis(None, None, f"the guest could not be asked why: {error.brief}")
        return Diagnosis.parse(outcome.stdout.decode(errors="replace"))

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if self._end:
            self._after_end.append(line)
        elif self._status_lines is not None:
            if line == "end":
                self.status = Status.parse("\n".join(self._status_lines))
                self._status_lines = None
            else:
                self._status_lines.append(line)
        elif line == "status":
            self._status_lines = []
        elif word == "boot":
            self._booted(rest)
        elif word == "stage":
            self._does(f"cloud-init was in its stage {rest}", f"cloud-init: {rest}")
        elif word == "address":
            address = _as_people_write(rest)
            self._does(f"it had not taken its address {address}", f"waits for {address}")
        elif line == "stopping":
            self._does("it was going down", "goes down")
        elif line in _ENDS:
            self._end = line

    def _booted(self, boot_id: str) -> None:
        if self.boot_id and boot_id != self.boot_id:
            self.reboots += 1
            self._say("has booted again")
        self.boot_id = boot_id

    def _does(self, doing: str, progress: str) -> None:
        self.doing = doing
        self._say(progress)


def _as_people_write(address: str) -> str:
    if "." in address:
        return address
    return str(IPv6Address(bytes.fromhex(address)))


async def _lines(stream: ByteReader) -> AsyncIterator[str]:
    """Yield the lines of a stream; what has no line end is none."""
    rest = b""
    while True:
        try:
            rest += await stream.receive()
        except anyio.EndOfStream:
            return
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
