"""A command as an exec session of its own: slower, but needs nothing in the image."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
from anyio import to_thread

from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.transports.base import Command, TerminalSize
from pytest_benchscale.transports.container import execs
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.container.hijack import RawStream
from pytest_benchscale.transports.container.host_killing import kill_on_this_machine, marked
from pytest_benchscale.transports.shell.agent import MARKER
from pytest_benchscale.transports.shell.streams import STDOUT, Inbox, Outbox

__all__ = ["PlainCommand", "as_error", "refusal_code"]

_KILL_SECONDS = 8.0
_MOMENT = 0.02  # seconds between looks for a command's process
_FIRST_LOOK = 0.1  # seconds until the daemon is asked whether a command has ended
_LONGEST_PAUSE = 1.0
_KILLED = 128 + signal.SIGKILL
_QUIET_SECONDS = 0.1  # without more of it: then all output of an ended command has come, ...
_UNSEEN_SECONDS = 1.0  # ... or these, where its children are not to be seen, ...
_CLOSE_SECONDS = 5.0  # ... or after these, where nothing is left that could hold its streams
_REFUSALS = (b"OCI runtime exec failed", b"unable to find user")
"""How a daemon begins to tell, in the place of output, that a command could not be started."""


class PlainCommand:
    """A command that is an exec session."""

    def __init__(
        self,
        api: DaemonApi,
        exec_id: str,
        stream: RawStream,
        marker: str,
        *,
        stdin: bool,
        fate: Callable[[], Awaitable[BenchscaleError | None]],
    ) -> None:
        self.stdin = Outbox(stream) if stdin else None
        self.stdout = Inbox()
        self.stderr = Inbox()
        self.stdout.on_drained = self.stderr.on_drained = self._drained
        self._api = api
        self._exec_id = exec_id
        self._stream = stream
        self._marker = marker
        self._fate = fate
        self._closed = asyncio.Event()
        self._has_output = False
        self._quiet_since = 0.0
        self._refusal: int | None = None  # the exit code of a command that could not be started
        loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = loop.create_future()
        stream.deliver_to(self)
        self._task = loop.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        api: DaemonApi,
        container: str,
        command: Command,
        *,
        stdin: bool,
        fate: Callable[[], Awaitable[BenchscaleError | None]],
        terminal: TerminalSize | None = None,
    ) -> PlainCommand:
        """Start a command, on a terminal of a size if one is given.

        Raises:
            ApiError, BackendUnavailable: the daemon refused, or is gone.
        """
        marker = command.env.get(MARKER) or os.urandom(8).hex()
        marked_command = replace(command, env={**command.env, MARKER: marker})
        exec_id = await execs.create(
            api, container, marked_command, stdin=stdin, terminal=terminal is not None
        )
        starting = asyncio.ensure_future(execs.start(api, exec_id, terminal))
        try:
            stream = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It may have been started all the same.
            with anyio.CancelScope(shield=True), suppress(ApiError, BenchscaleError, OSError):
                stream = await starting
                running = cls(api, exec_id, stream, marker, stdin=stdin, fate=fate)
                await running.kill_tree()
                await running.aclose()
            raise
        return cls(api, exec_id, stream, marker, stdin=stdin, fate=fate)

    @property
    def has_ended(self) -> bool:
        """Whether its end is known."""
        return self._status.done()

    async def resize(self, size: TerminalSize) -> None:
        """Tell the terminal how large it is; nothing happens when the command has ended.

        Raises:
            ApiError, BackendUnavailable: the daemon refused, or is gone.
        """
        await self.until_started()
        if self._status.done():
            return
        try:
            await execs.resize(self._api, self._exec_id, size)
        except ApiError:
            if (await execs.inspect(self._api, self._exec_id)).is_running:
                raise

    async def until_started(self) -> None:
        """Return when the daemon is done with its start, which goes on after it has given the streams.

        Raises:
            ApiError, BackendUnavailable: the daemon refused, or is gone.
        """
        with anyio.move_on_after(_KILL_SECONDS):
            while not self._status.done():
                if (await execs.inspect(self._api, self._exec_id)).pid:
                    return
                await asyncio.sleep(_MOMENT)

    async def wait(self) -> int:
        """Return the exit code, negative for a signal; raises `NodeDied` if the node ended first."""
        return await asyncio.shield(self._status)

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the command itself."""
        if self._status.done():
            return
        if found := await self._processes():
            with suppress(ProcessLookupError):
                os.kill(min(found), signum)  # the command is the eldest

    async def kill_tree(self) -> None:
        """Kill the command and everything it started; return when they are gone."""
        await self._processes()
        deadline = time.monotonic() + _KILL_SECONDS
        kill = partial(kill_on_this_machine, self._marker, deadline=deadline)
        if not await to_thread.run_sync(kill):
            raise self._out_of_reach()

    async def _processes(self) -> set[int]:
        """Return the command's processes on this machine, none when it has ended.

        The daemon may have yet to start it.

        Raises:
            LabError: it runs, but its processes are not to be seen here.
        """
        deadline = time.monotonic() + _KILL_SECONDS
        while not (found := await to_thread.run_sync(marked, self._marker)):
            if self._status.done():
                break
            if not self._api.address.is_local or time.monotonic() > deadline:
                raise self._out_of_reach()
            await asyncio.sleep(_MOMENT)
        return found

    async def aclose(self) -> None:
        """Let go of the streams."""
        self.stdout.abandon()
        self.stderr.abandon()
        self._stream.close()

    def lost(self, error: BenchscaleError) -> None:
        """Take note of the end of the node."""
        self._task.cancel()
        if not self._status.done():
            self._status.set_exception(error)
            self._status.exception()  # perhaps nobody waits; that is no error
        self._end_streams()

    # --- what comes from the daemon ---

    def received(self, stream: int, data: bytes) -> None:
        """Take output. The daemon's own words, when a command cannot be started, are no output of it."""
        is_refusal = not self._has_output and data.startswith(_REFUSALS)
        if is_refusal:
            self._refusal = refusal_code(data.decode(errors="replace"))
        inbox = self.stdout if stream == STDOUT and not is_refusal else self.stderr
        inbox.put(data)
        self._has_output = True
        self._quiet_since = time.monotonic()
        if inbox.is_full:
            self._stream.pause()

    def closed(self) -> None:
        """Take note of the end of the streams."""
        self._closed.set()

    def _drained(self) -> None:
        if not (self.stdout.is_full or self.stderr.is_full):
            self._stream.resume()

    async def _watch(self) -> None:
        """Wait for the end: of the streams, or of the command when a child of it keeps them open."""
        pause = _FIRST_LOOK
        try:
            while True:
                with anyio.move_on_after(pause):
                    await self._closed.wait()
                state = await execs.inspect(self._api, self._exec_id)
                if not state.is_running and state.exit_code is not None:
                    await self._drain()
                    # Perhaps it was killed because its container was.
                    if state.exit_code == _KILLED and (error := await self._fate()) is not None:
                        self.lost(error)
                        return
                    self._status.set_result(self._refusal or _returncode(state.exit_code))
                    break
                if self._closed.is_set() and (error := await self._fate()) is not None:
                    self.lost(error)
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
                if self._closed.is_set():
                    await asyncio.sleep(pause)  # the daemon has yet to learn of its end
        except (ApiError, BenchscaleError) as error:
            self.lost(await self._fate() or as_error(error))
            return
        self._end_streams()

    async def _drain(self) -> None:
        """Return when the output of a command that has ended is here; what a child adds later is not its.

        Unless there is a child that holds the streams, they will be closed. On another machine it is not
        to be seen whether there is one.
        """
        self._quiet_since = time.monotonic()
        with anyio.move_on_after(_QUIET_SECONDS):
            await self._closed.wait()
            return
        quiet = _QUIET_SECONDS
        if not self._api.address.is_local:
            quiet = _UNSEEN_SECONDS
        elif not await to_thread.run_sync(marked, self._marker):
            quiet = _CLOSE_SECONDS
        while not self._closed.is_set():
            left = self._quiet_since + quiet - time.monotonic()
            if left <= 0 and not (self.stdout.is_full or self.stderr.is_full):
                return
            with anyio.move_on_after(max(left, _QUIET_SECONDS / 4)):
                await self._closed.wait()

    def _end_streams(self) -> None:
        self.stdout.end()
        self.stderr.end()

    def _out_of_reach(self) -> LabError:
        return LabError(
            "a command cannot be signalled in an image without a shell, unless its daemon is on this "
            "machine and its processes may be signalled from here",
            step="kill",
            resolution="use an image with /bin/sh, or run the tests as root on the daemon's machine",
        )


def refusal_code(reason: str) -> int:
    """Return the exit code that a shell would give for a command that could not be started."""
    missing = "executable file not found" in reason or "no such file" in reason.lower()
    return 127 if missing else 126


def as_error(error: ApiError | BenchscaleError) -> BenchscaleError:
    """Return what to tell when a daemon refused something in the middle of a command."""
    if isinstance(error, BenchscaleError):
        return error
    return LabError(f"the daemon refused: {error.explanation}", step="exec")


def _returncode(code: int) -> int:
    """Return an exit code as `ExecResult` has it. A daemon tells death by a signal as 128 + its number."""
    return 128 - code if 128 < code <= 128 + signal.SIGTERM else code
