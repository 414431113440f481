"""Waiting until a guest is ready: it has its address, lets us in, and cloud-init has finished."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import anyio

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.libvirt import setup_watch
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.knocking import POLL, Door, Knocker
from pytest_benchscale.backends.libvirt.setup_watch import CutOff, SetupWatch
from pytest_benchscale.errors import BenchscaleError, GuestWarning, LabError, NodeDied
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports.base import Launcher, RunningCommand
from pytest_benchscale.transports.ssh.jump import Jump
from pytest_benchscale.transports.ssh.login import LoginFailed

__all__ = ["Deadlines", "Guest", "Ready", "until_ready"]

_MOST_REBOOTS = 5
_DEATH_SECONDS = 1.0  # between a lost connection and the news that the domain is gone
_MORE_TIME = "a slow machine gets more time by --benchscale-timeout-scale"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each step may take, in seconds on a fast machine."""

    address: float = 120.0
    ssh: float = 120.0
    cloud_init: float = 600.0
    refused: float = 10.0  # how long a login may be refused until that counts

    def scaled(self, scale: float) -> Deadlines:
        """Return deadlines for a machine that is slower by that factor."""
        return Deadlines(
            self.address * scale, self.ssh * scale, self.cloud_init * scale, self.refused * scale
        )


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that boots.

    `launcher` logs in with the host key pinned (an `SshTransport`); `host` and `port` are where its sshd
    will listen, seen from the machine `through` where one is given. `died` returns why once the domain has
    ended, and not before. `addresses` are those that cloud-init gives it. With `needs_cloud_init`, an image
    without it is an error.
    """

    node: str
    host: str
    port: int
    launcher: Launcher
    died: Callable[[], Awaitable[str]]
    console: Console | None = None
    addresses: tuple[IpAddress, ...] = ()
    needs_cloud_init: bool = False
    through: Jump | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """How a guest became ready. `warnings` is what cloud-init complained about; it works all the same."""

    boot_id: str
    cloud_init: Literal["done", "degraded", "none", "disabled"]
    warnings: tuple[str, ...] = ()
    reboots: int = 0


async def until_ready(
    guest: Guest, *, deadlines: Deadlines | None = None, progress: Progress | None = None
) -> Ready:
    """Wait until a guest is ready, and warn (`GuestWarning`) of what cloud-init complained about.

    Raises:
        NodeDied: its domain ended, or its kernel panicked; with the console's end.
        LabError: it never got an address, refused the login, cloud-init failed, or took too long.
    """
    wait = _Wait(guest, deadlines or Deadlines(), progress)
    work = asyncio.create_task(wait.run())
    ends = {asyncio.create_task(wait.death()), asyncio.create_task(wait.trouble())}
    try:
        await asyncio.wait({work, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() and isinstance(work.exception(), BenchscaleError):
            # The connection to a guest that ends may be lost before its end is known.
            seconds = _DEATH_SECONDS if isinstance(work.exception(), NodeDied) else 0
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                raise end.result()
        ready = work.result()
    finally:
        for task in (work, *ends):
            task.cancel()
        await asyncio.gather(work, *ends, return_exceptions=True)
    if ready.warnings:
        complaints = "\n".join(ready.warnings)
        warnings.warn(
            f"node {guest.node!r}: cloud-init finished with complaints:\n{complaints}",
            GuestWarning,
            stacklevel=2,
        )
    return ready


class _Wait:
    """The wait for one guest."""

    def __init__(self, guest: Guest, deadlines: Deadlines, progress: Progress | None) -> None:
        self._guest = guest
        self._deadlines = deadlines
        self._progress = progress
        self._knocker = Knocker(guest.host, guest.port, guest.through)
        self._login_failure = ""
        self._watch = SetupWatch(guest.node, guest.launcher, guest.addresses, self._say)
        self._begun = time.monotonic()

    async def run(self) -> Ready:
        """Go from step to step."""
        deadlines = self._deadlines
        self._say("boots")
        knocking = self._knocker.until(Door.CLOSED, Door.OPEN)
        await self._within(deadlines.address, knocking, self._no_address)
        self._say(f"has its address, {self._guest.host}; waits for its sshd")
        command = await self._within(deadlines.ssh, self._log_in(), self._no_ssh)
        self._say("lets us in; waits for cloud-init")
        outcome = await self._within(
            deadlines.cloud_init, self._set_up(command), self._no_cloud_init
        )
        self._say(f"is ready after {time.monotonic() - self._begun:.1f} s")
        status, watch = self._watch.status, self._watch
        complaints = tuple(f"{stage}: {message}" for stage, message in status.warnings)
        if outcome == "done":
            state: Literal["done", "degraded"] = "degraded" if complaints else "done"
            return Ready(watch.boot_id, state, complaints, watch.reboots)
        return Ready(watch.boot_id, outcome, (), watch.reboots)

    async def death(self) -> BenchscaleError:
        """Return what to raise once the domain has ended."""
        reason = await self._guest.died()
        return NodeDied(self._guest.node, reason, details=await self._heard())

    async def trouble(self) -> BenchscaleError:
        """Return what to raise once the console tells of something fatal."""
        while True:
            console = self._guest.console
            trouble = await asyncio.to_thread(console.trouble) if console is not None else None
            if trouble is not None:
                return NodeDied(self._guest.node, trouble, details=await self._heard())
            await asyncio.sleep(POLL if console is None else console.poll)

    # --- the steps ---

    async def _within(
        self,
        seconds: float,
        work: Coroutine[Any, Any, T],
        late: Callable[[float], Awaitable[BenchscaleError]],
    ) -> T:
        """Do a step, or raise what it means that it took too long."""
        with anyio.move_on_after(seconds):
            try:
                return await work
            except LoginFailed as failed:  # at the machine that it is reached from
                raise failed.as_error(self._guest.node) from failed
        raise await late(seconds)

    async def _log_in(self) -> RunningCommand:
        """Log in as soon as there is an sshd, and start what watches cloud-init.

        Raises:
            LabError: the login is refused and goes on being refused.
        """
        refused_since: float | None = None
        while True:
            await self._knocker.until(Door.OPEN)
            try:
                return await self._watch.start(self._deadlines.cloud_init)
            except LabError as error:
                failed = error.__cause__
                if not isinstance(failed, LoginFailed):
                    raise
                self._login_failure = failed.reason
                now = time.monotonic()
                is_refusal = setup_watch.is_refusal(failed)
                refused_since = (refused_since or now) if is_refusal else None
                # A short time, in which the keys may not be there yet.
                if refused_since is not None and now - refused_since >= self._deadlines.refused:
                    raise await self._refused(failed) from error
            await asyncio.sleep(POLL)

    async def _set_up(self, command: RunningCommand) -> Literal["done", "none", "disabled"]:
        """Follow cloud-init to its end, over reboots."""
        while True:
            try:
                outcome = await self._watch.follow(command)
            except CutOff:
                if self._watch.reboots > _MOST_REBOOTS:
                    raise await self._reboots_for_ever() from None
                self._say("lost the connection; it may be booting again")
                command = await self._log_in()
                continue
            if outcome in {"error", "crashed"} or self._watch.status.errors:
                raise await self._setup_failed()
            if outcome == "done":
                return "done"
            kind: Literal["none", "disabled"] = "none" if outcome == "none" else "disabled"
            if self._guest.needs_cloud_init:
                raise self._no_setup(kind)
            return kind

    # --- what it means when a step fails ---

    async def _no_address(self, seconds: float) -> LabError:
        return self._error(
            f"never came to its address {self._guest.host}: nothing answered there for {seconds:g} s",
            "address",
            await self._heard(f"the last attempt: {self._knocker.met}"),
            f"look at the console's end for what the guest does instead; {_MORE_TIME}",
        )

    async def _no_ssh(self, seconds: float) -> LabError:
        seen = self._login_failure or self._knocker.met
        return self._error(
            f"has its address {self._guest.host}, but no login by ssh succeeded within {seconds:g} s",
            "ssh",
            await self._heard(f"the last attempt: {seen}"),
            f"look whether an sshd is in its image and starts; {_MORE_TIME}",
        )

    async def _refused(self, failed: LoginFailed) -> LabError:
        return self._error(
            f"runs an sshd that does not let us in: {failed.reason}",
            "ssh",
            await self._heard(),
            "its image must have cloud-init, which installs our keys, and an sshd that lets root in by "
            "key (`PermitRootLogin prohibit-password`, which is its default)",
        )

    async def _no_cloud_init(self, seconds: float) -> LabError:
        diagnosis = await self._watch.diagnose()
        return self._error(
            f"was not set up within {seconds:g} s: {self._watch.doing}",
            "cloud-init",
            await self._heard(diagnosis.output),
            f"look what takes that long in `packages` and `runcmd` under `cloud_init:`; {_MORE_TIME}",
        )

    async def _reboots_for_ever(self) -> LabError:
        return self._error(
            f"booted {self._watch.reboots + 1} times and was not ready in between",
            "cloud-init",
            await self._heard(),
            "a command under `cloud_init:` may reboot it at each boot, or it crashes: see the console",
        )

    async def _setup_failed(self) -> LabError:
        diagnosis = await self._watch.diagnose()
        errors = "; ".join(f"{stage}: {message}" for stage, message in self._watch.status.errors)
        errors = errors or f"a stage of it crashed, {self._watch.doing}"
        details = await self._heard(diagnosis.output)
        if diagnosis.is_disk_full:
            size = f" of {diagnosis.size:,} MiB" if diagnosis.size else ""
            return self._error(
                f"could not be set up, its disk{size} is full: {errors}",
                "cloud-init",
                details,
                "give the node a larger `disk_gb`",
            )
        return self._error(
            f"could not be set up, cloud-init failed: {errors}",
            "cloud-init",
            details,
            "correct what fails under `cloud_init:`; /var/log/cloud-init.log in the guest has more, and "
            "--benchscale-keep=failed keeps the guest to look at it",
        )

    def _no_setup(self, kind: Literal["none", "disabled"]) -> LabError:
        why = "has no cloud-init" if kind == "none" else "has cloud-init switched off"
        return self._error(
            f"cannot be set up: its image {why}",
            "cloud-init",
            None,
            "choose an image with cloud-init, such as a distribution's cloud image; or leave `cloud_init:` "
            "out and use `setup:`",
        )

    def _error(self, what: str, step: str, details: str | None, resolution: str) -> LabError:
        node = self._guest.node
        return LabError(
            f"node {node!r} {what}", node=node, step=step, details=details, resolution=resolution
        )

    async def _heard(self, *first: str) -> str | None:
        """Return what is known: this, and what is on the console."""
        parts = [part for part in first if part]
        if (console := self._guest.console) is not None:
            tail = await asyncio.to_thread(console.tail)
            shown = set(tail.splitlines())
            complaints = await asyncio.to_thread(console.complaints)
            if earlier := [line for line in complaints if line not in shown]:
                parts.append("earlier on its console:\n" + "\n".join(earlier))
            parts.append(f"the console's end:\n{tail}" if tail else "its console is empty")
        return "\n".join(parts) or None

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress(f"{self._guest.node}: {text}")
