"""What is known of one node, and the guarded way into it."""

from __future__ import annotations

import asyncio
import errno
import posixpath
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

from pytest_benchscale.backends.base import Capability, NodeInfo, NodePlan, NodeStatus
from pytest_benchscale.errors import BenchscaleError, CommandTimeout, LabError, NodeDied
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.history import CommandRecord
from pytest_benchscale.results import ExecResult
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import (
    Command,
    RunningCommand,
    Terminal,
    TerminalSize,
    Transport,
)

__all__ = ["Machine", "last_lines"]

T = TypeVar("T")

ASK_DEADLINE = 30.0
"""Seconds that a backend may take to tell a node's state or its log."""

_FILE_ADVICE = {
    errno.ENOENT: "check the path; put and get do not create the directories above their target",
    errno.ENOTDIR: "check the path: something in it is not a directory",
    errno.EISDIR: "name a file, not a directory",
    errno.EROFS: "this place is read-only in the node; choose another, such as /tmp",
    errno.ENOSPC: "the disk is full; make room, or choose another place",
    errno.EACCES: "check the permissions of the path",
}


class Machine:
    """One node as the lab sees it. Lives in the portal; `Node` is its public face.

    `plan` is what was asked for, None before the lab comes up. `info` is what there is, None while
    the node does not exist.
    """

    def __init__(self, name: str, context: LabContext) -> None:
        self.name = name
        self.context = context
        self.plan: NodePlan | None = None
        self.info: NodeInfo | None = None
        self.changing = asyncio.Lock()
        self._transport: Transport | None = None

    async def adopt(self, info: NodeInfo) -> None:
        """Take over the state of a node that was created, started or ended."""
        self.info = info
        await self.let_go()

    async def let_go(self) -> None:
        """Close the way into the node as it was."""
        transport, self._transport = self._transport, None
        if transport is not None:
            with anyio.move_on_after(ASK_DEADLINE, shield=True):
                await transport.aclose()

    def ask_the_way(self) -> None:
        """Have the way into the node be asked for anew: the backend may have renewed it."""
        self._transport = None

    async def refresh(self) -> NodeInfo:
        """Ask the backend for the node's state."""
        self.existing("status")
        info = await self.context.ask(
            lambda: self.context.backend.get_node(self.name),
            deadline=ASK_DEADLINE,
            node=self.name,
            step="status",
        )
        if self.info is not None:  # else the lab went down meanwhile
            self.info = info
        return info

    async def logs(self, *, timestamps: bool = False) -> str:
        """Ask the backend for what the node has said."""
        return await self.context.ask(
            lambda: self.context.backend.logs(self.name, timestamps=timestamps),
            deadline=ASK_DEADLINE,
            node=self.name,
            step="logs",
        )

    def existing(self, step: str) -> NodeInfo:
        """Return the state last known.

        Raises:
            LabError: there is no such node now.
        """
        __tracebackhide__ = True
        if self.info is None:
            raise LabError(
                f"node {self.name!r} is not there: its lab is not up",
                node=self.name,
                step=step,
                resolution="use a node only while its lab is up: in a test, or inside the "
                "`async with Lab.open(...)` block",
            )
        return self.info

    async def way_in(self, step: str) -> Transport:
        """Return the way into the running node.

        Raises:
            LabError: it is stopped or paused, or its lab is not up.
            NodeDied: it is dead.
        """
        __tracebackhide__ = True
        await self.require_running(self.existing(step), step)
        if self._transport is None:
            self._transport = self.context.backend.transport(self.name)
        return self._transport

    async def require_running(self, info: NodeInfo, step: str) -> None:
        """Raise the error that says why nothing can be done in the node now, if so."""
        __tracebackhide__ = True
        if info.status is NodeStatus.RUNNING:
            return
        if info.status is NodeStatus.DEAD:
            reason = info.reason or "it is not running any more"
            raise NodeDied(self.name, reason, details=last_lines(await self.logs()))
        cure = "resume" if info.status is NodeStatus.PAUSED else "start"
        raise LabError(
            f"node {self.name!r} is {info.status}: no {step} possible",
            node=self.name,
            step=step,
            resolution=f"`await lab[{self.name!r}].{cure}()` first",
        )

    async def require_alive(self) -> None:
        """Ask the backend whether the node runs.

        Raises:
            NodeDied, LabError: it does not.
        """
        __tracebackhide__ = True
        await self.require_running(await self.refresh(), "waiting")

    async def explain(self, death: NodeDied, step: str) -> BenchscaleError:
        """Return what to tell about a node that ended under our hands, with the end of its log."""
        if self.info is None:
            return LabError(
                f"node {self.name!r} was removed meanwhile: {step} was cut short",
                node=self.name,
                step=step,
            )
        try:
            info = await self.refresh()
            log = death.details or last_lines(await self.logs())
        except BenchscaleError as exc:
            death.add_note(f"and its state could not be learned: {exc}")
            return death
        if info.status is NodeStatus.STOPPED:
            return LabError(
                f"node {self.name!r} was stopped meanwhile: {step} was cut short",
                node=self.name,
                step=step,
            )
        return NodeDied(self.name, info.reason or death.reason, details=log)

    async def start(self, command: Command, step: str, *, stdin: bool) -> RunningCommand:
        """Start a command that nobody waits for here."""
        self._require_user(command)
        try:
            return await (await self.way_in(step)).start(command, stdin=stdin)
        except NodeDied as exc:
            raise await self.explain(exc, step) from None

    async def open_terminal(self, command: Command, size: TerminalSize, term: str) -> Terminal:
        """Start a command on a terminal of its own."""
        self._require_user(command)
        try:
            return await (await self.way_in("terminal")).open_terminal(command, size, term)
        except NodeDied as exc:
            raise await self.explain(exc, "terminal") from None

    async def run(
        self,
        shown: str | tuple[str, ...],
        command: Command,
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        recorded: bool = True,
    ) -> ExecResult:
        """Run a command to its end and write it down in the lab's history.

        Raises:
            CommandTimeout, NodeDied, LabError, NotSupported: as `Node.exec` says.
        """
        __tracebackhide__ = True
        self._require_user(command)
        transport = await self.way_in("exec")
        begun, started = time.perf_counter(), time.time()
        ending = "cancelled"
        result = ExecResult(shown, 0, b"", b"", 0.0, self.name)
        try:
            outcome = await execution.run(transport, command, stdin=stdin, timeout=timeout)
            returncode = -9 if outcome.returncode is None else outcome.returncode
            result = ExecResult(
                shown, returncode, outcome.stdout, outcome.stderr, outcome.duration, self.name
            )
            ending = f"timed out after {timeout:g} s" if outcome.timed_out else result.outcome
        except NodeDied as exc:
            ending = "the node died"
            raise await self.explain(exc, "exec") from None
        except (OSError, BenchscaleError) as exc:
            ending = str(exc).partition("\n")[0]
            raise
        finally:
            if recorded:
                duration = time.perf_counter() - begun
                self.context.history.append(
                    CommandRecord(self.name, result.command_line, ending, duration, started)
                )
        if outcome.timed_out:
            raise self._timed_out(result, timeout, killed=outcome.killed)
        return result

    async def write(self, path: str, data: bytes, mode: int | None) -> None:
        """Create or replace a file, with the directories above it."""
        transport = await self.way_in("write")
        try:
            await transport.write_bytes(path, data, mode)
        except FileNotFoundError:
            parent = posixpath.dirname(path)
            made = await execution.run(
                transport, Command(("mkdir", "-p", "--", parent or ".")), timeout=ASK_DEADLINE
            )
            if made.returncode != 0:
                raise
            await transport.write_bytes(path, data, mode)

    async def file_work(self, work: Coroutine[Any, Any, T], step: str, path: str) -> T:
        """Do something with files in the node.

        Raises:
            LabError: the node's system refused; says why.
            NodeDied: the node ended.
        """
        __tracebackhide__ = True
        try:
            return await work
        except NodeDied as exc:
            raise await self.explain(exc, step) from None
        except OSError as exc:
            raise self.file_error(exc, step, path) from None

    def file_error(self, exc: OSError, step: str, path: str) -> LabError:
        """Return what to tell about a file operation that failed."""
        reason = exc.strerror or str(exc) or type(exc).__name__
        named = exc.filename if isinstance(exc.filename, str) else path
        return LabError(
            f"{step} on node {self.name!r} failed: {reason}: {named}",
            node=self.name,
            step=step,
            details=None if named == path else f"path: {path}",
            resolution=_FILE_ADVICE.get(exc.errno or 0),
        )

    def _require_user(self, command: Command) -> None:
        if command.user is not None:
            self.context.require(Capability.USERS)

    def _timed_out(
        self, result: ExecResult, timeout: float | None, *, killed: bool
    ) -> CommandTimeout:
        error = CommandTimeout(result, timeout or 0.0, node=self.name)
        if not killed:
            error.details = (
                f"{error.details}\nIt could not be killed within {execution.KILL_DEADLINE:g} s and "
                "may still run."
            )
        return error


def last_lines(text: str, count: int = 20) -> str:
    """Return the end of a text, for a message."""
    return "\n".join(text.splitlines()[-count:]) or "(nothing)"
