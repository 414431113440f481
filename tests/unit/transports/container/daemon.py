"""A daemon of a few lines: it knows nothing but exec sessions, which it runs on this machine.

It stands beside the contract on real daemons, for what those cannot do on demand: other shells,
connections that break, answers that make no sense. Nothing is killed through it: its processes share
the machine's, where the other end of a session's pipes is that of the tests themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_benchscale.transports.container.api import ApiError
from pytest_benchscale.transports.container.hijack import DaemonAddress


class Daemon:
    """Serves `socket`; `/bin/sh` in what it is asked to run becomes `shell`."""

    name = "fake"

    def __init__(self, socket: Path, shell: Sequence[str] = ("/bin/sh",)) -> None:
        self.address = DaemonAddress("unix", path=str(socket))
        self.client = self
        self.api_version = "1.41"
        self.shell = shell
        self.answer: bytes | None = None  # instead of an upgrade
        self.started = 0
        self._execs: dict[str, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._processes: set[int] = set()
        self._ended = False

    async def __aenter__(self) -> Daemon:
        self._server = await asyncio.start_unix_server(self._serve, self.address.path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End connections and processes, and see all of them to their end: nothing is cancelled."""
        assert self._server is not None
        self._ended = True
        self._server.close()
        for pid in self._processes:
            _kill_group(pid)
        for writer in self._connections.values():
            writer.close()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    # --- what the transport asks of it ---

    async def call(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    async def leisure(self) -> None:
        pass

    def exec_create(self, container: str, argv: list[str], **options: Any) -> dict[str, str]:
        if container != "container":
            raise ApiError(404, f"No such container: {container}")
        number = str(next(self._ids))
        self._execs[number] = {"argv": argv, "Running": False, "ExitCode": None, **options}
        return {"Id": number}

    def exec_inspect(self, number: str) -> dict[str, Any]:
        return self._execs[number]

    # --- the other end of its socket ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            if not self._ended:
                await self._answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the client went away before it asked
        finally:
            del self._connections[task]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(header.lower().partition("content-length:")[2].split()[0])
        assert json.loads(await reader.readexactly(length)) == {"Detach": False, "Tty": False}
        if self.answer is not None:
            writer.write(self.answer)
            return
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        state = self._execs[header.split("/")[3]]
        self.started += 1
        argv = [*self.shell, *state["argv"][1:]] if state["argv"][0] == "/bin/sh" else state["argv"]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=state["workdir"],
                start_new_session=True,
            )
        except OSError as error:
            reason = f'exec: "{state["argv"][0]}": {error.strerror}'
            self._frame(writer, 2, f"OCI runtime exec failed: {reason}: unknown\r\n".encode())
            state["ExitCode"] = 127
            return
        state["Running"] = True
        self._processes.add(process.pid)
        if self._ended:  # while it was being started
            _kill_group(process.pid)
        await self._carry(reader, writer, process)
        self._processes.discard(process.pid)
        state.update(Running=False, ExitCode=_code(await process.wait()))

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        process: asyncio.subprocess.Process,
    ) -> None:
        assert process.stdout
        assert process.stderr
        feeding = asyncio.create_task(self._feed(reader, process))
        await asyncio.gather(
            self._copy(process.stdout, writer, 1), self._copy(process.stderr, writer, 2)
        )
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(
        self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process
    ) -> None:
        assert process.stdin
        try:
            while data := await reader.read(1 << 16):
                process.stdin.write(data)
                await process.stdin.drain()
        except ConnectionError:
            pass
        finally:
            process.stdin.close()

    async def _copy(
        self, source: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: int
    ) -> None:
        while data := await source.read(1 << 15):
            with suppress(ConnectionError):  # a daemon goes on reading when nobody listens
                self._frame(writer, stream, data)
                await writer.drain()

    @staticmethod
    def _frame(writer: asyncio.StreamWriter, stream: int, data: bytes) -> None:
        writer.write(struct.pack(">BxxxL", stream, len(data)) + data)


def _code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended, which is about to be noticed
        os.killpg(pid, signal.SIGKILL)
