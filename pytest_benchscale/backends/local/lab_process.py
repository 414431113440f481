"""Starting, addressing and ending the processes that hold a lab, from the event loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio

import pytest_benchscale
from pytest_benchscale.backends.local import meeting, orphans
from pytest_benchscale.backends.local.diagnosis import explain
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.transports.namespace import channel
from pytest_benchscale.transports.namespace.channel import Message
from pytest_benchscale.transports.namespace.endpoint import Endpoint

__all__ = ["LabProcess"]

_START_SECONDS = 20.0
_END_SECONDS = 20.0
# -I and -S: no site-packages, no environment; the lab's processes need the standard library only.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pytest_benchscale.backends.local.launcher import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == 'overlay')"
)


class LabProcess:
    """The launcher and holder of one lab, as pytest sees them: a control channel.

    They are our children, or those of somebody who has kept the lab.
    """

    def __init__(self, on_event: Callable[[Message], None]) -> None:
        self._on_event = on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None
        self._ready = anyio.Event()
        self._failure: Message | None = None
        self._stderr = -1  # in memory; what the processes say when they die of something unforeseen
        self._last_words = ""
        self._gone = -1  # reads to its end once the launcher of somebody else has ended

    @property
    def is_gone(self) -> bool:
        """Whether the holder has ended, and with it everything of the lab."""
        return self._endpoint is None or self._endpoint.closed

    async def start(self, *, overlay: bool) -> None:
        """Start the processes and wait until they hold a lab.

        Raises:
            BackendUnavailable: the kernel or a surrounding container refuses something.
        """
        self._stderr = os.memfd_create("benchscale-stderr", os.MFD_CLOEXEC)
        ours, theirs = channel.pair()
        source = str(Path(pytest_benchscale.__file__).parent.parent)
        mode = "overlay" if overlay else "no-overlay"
        argv = [sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
        argv += ["-c", _BOOT, source]
        argv += [str(theirs.fileno()), str(os.getpid()), mode]
        try:
            # Blocks for the 2 ms of a vfork; in this thread, whose end is then the lab's end too.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then tears the lab down
                cwd="/",
            )
        except OSError as error:
            ours.close()
            self._close_stderr()
            reason, resolution = explain("fork", error.errno or 0, str(error))
            raise BackendUnavailable("local", reason, resolution=resolution) from error
        finally:
            theirs.close()
        self._endpoint = Endpoint(ours, self._event, self._ready.set)
        with anyio.move_on_after(_START_SECONDS):
            await self._ready.wait()
        if self._endpoint.closed or self._failure or not self._ready.is_set():
            await self.close()
            raise self._could_not_start()

    async def join(self, address: str, *, owner: bool) -> Message:
        """Take over a lab that was kept, or (not as the owner) only visit it; return what there is.

        Raises:
            LabError: it is gone.
        """
        sock = meeting.connect(address)
        if sock is None:
            raise LabError(
                "the lab is not there any more: the process that held it has ended",
                step="adopt",
                resolution="was it killed, its time over, or the machine started anew?",
            )
        self._endpoint = Endpoint(sock, self._event, self._ready.set)
        answer, (self._gone,) = await self.fetch("join", owner=owner)
        return answer

    async def keep(self, address: str, memory: Mapping[str, object], until: float | None) -> None:
        """Let the processes live on without us; they end at `until`, in seconds since boot."""
        door = meeting.listen(address) if self._process is not None else None
        try:
            descriptors = (door.fileno(),) if door is not None else ()
            await self.request("keep", descriptors, memory=memory, until=until)
        finally:
            if door is not None:
                door.close()
        process, self._process = self._process, None
        if process is not None:
            orphans.leave(process)
            self._close_stderr()
        self.leave()

    def leave(self) -> None:
        """Let go of the processes."""
        if self._endpoint is not None:
            self._endpoint.close()
        if self._gone >= 0:
            os.close(self._gone)
            self._gone = -1

    async def end(self) -> None:
        """End processes that are not our children, and wait until the kernel has removed them all."""
        await self.post("end")
        with anyio.move_on_after(_END_SECONDS, shield=True) as scope:
            await anyio.wait_readable(self._gone)
        self.leave()
        if scope.cancelled_caught:
            raise LabError(
                f"the lab's processes did not end within {_END_SECONDS:g} s", step="down"
            )

    async def request(
        self, operation: str, descriptors: tuple[int, ...] = (), /, **fields: object
    ) -> Message:
        """Ask the holder; return its answer.

        Raises:
            OSError: the holder could not do it.
            LabError: the holder is gone, and with it the lab.
        """
        answer, _ = await self.fetch(operation, descriptors, **fields)
        return answer

    async def fetch(
        self, operation: str, descriptors: tuple[int, ...] = (), /, **fields: object
    ) -> tuple[Message, list[int]]:
        """Ask the holder; return its answer and descriptors that come with it, which the caller owns.

        Raises:
            OSError, LabError: as `request`.
        """
        if self._endpoint is None:
            raise LabError("the lab's processes do not run", step=operation)
        try:
            answer, received = await self._endpoint.request(operation, descriptors, **fields)
        except ConnectionError:
            raise LabError(
                "the process that holds the lab is gone, and with it all nodes",
                step=operation,
                details=self._last_words or None,
                resolution="was it killed from outside, or by the kernel for lack of memory?",
            ) from None
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])
        return answer, received

    async def post(
        self, operation: str, descriptors: tuple[int, ...] = (), /, **fields: object
    ) -> None:
        """Tell the holder something that has no answer; nothing happens when it is gone."""
        if self._endpoint is not None and not self.is_gone:
            await self._endpoint.send({"op": operation, **fields}, descriptors)

    async def close(self) -> None:
        """End the processes and wait until the kernel has removed them all."""
        if self._gone >= 0:
            await self.end()
        if self._endpoint is not None:
            self._endpoint.close()
        process, self._process = self._process, None
        if process is None:
            return
        pidfd = os.pidfd_open(process.pid)
        try:
            with anyio.move_on_after(_END_SECONDS, shield=True) as scope:
                await anyio.wait_readable(pidfd)
            if scope.cancelled_caught:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        process.wait(_END_SECONDS)
        self._close_stderr()

    def _event(self, message: Message, _descriptors: list[int]) -> None:
        if "failed" in message:
            self._failure = message
            self._ready.set()
        elif "ready" in message:
            self._ready.set()
        else:
            self._on_event(message)

    def _could_not_start(self) -> BackendUnavailable:
        if self._failure:
            step, number, text = (self._failure[key] for key in ("failed", "errno", "text"))
            reason, resolution = explain(step, number, text)
            return BackendUnavailable("local", reason, resolution=resolution)
        words = self._last_words or f"no answer within {_START_SECONDS:g} s"
        return BackendUnavailable("local", f"its processes could not be started: {words}")

    def _close_stderr(self) -> None:
        words = os.pread(self._stderr, os.fstat(self._stderr).st_size, 0)
        self._last_words = words.decode(errors="replace").strip()[-2000:]
        os.close(self._stderr)
        self._stderr = -1
