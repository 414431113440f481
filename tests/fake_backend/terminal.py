"""A terminal in memory: it echoes what is typed, and knows a few lines."""

from __future__ import annotations

import asyncio

import anyio

from pytest_benchscale.lab.terminal import SHELL_SCRIPT
from pytest_benchscale.transports.base import Command, TerminalSize

__all__ = ["FakeTerminal"]


class FakeTerminal:
    """`stty size`, `echo $TERM` and `exit N`, and ends at all else; Ctrl-C is shown as ^C."""

    def __init__(self, command: Command, size: TerminalSize, term: str) -> None:
        self.command, self.size, self.term = command, size, term
        self.is_closed = False
        self._line = b""
        self._shown: asyncio.Queue[bytes] = asyncio.Queue()
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if command.argv == ("/bin/sh", "-c", SHELL_SCRIPT):
            self._shown.put_nowait(b"$ ")
        else:
            self._end("there is no such command", 127)

    async def receive(self) -> bytes:
        data = await self._shown.get()
        if not data:
            self._shown.put_nowait(b"")
            raise anyio.EndOfStream
        return data

    async def send(self, data: bytes) -> None:
        if self._status.done():
            raise anyio.BrokenResourceError
        for byte in data:
            character = bytes([byte])
            if character == b"\x03":
                self._line = b""
                self._shown.put_nowait(b"^C\r\n$ ")
            elif character == b"\r":
                self._shown.put_nowait(b"\r\n")
                line, self._line = self._line.decode(), b""
                self._run(line)
                if self._status.done():
                    return
            else:
                self._line += character
                self._shown.put_nowait(character)

    def _run(self, line: str) -> None:
        match line.split():
            case ["exit", code]:
                self._end("exit", int(code))
            case ["stty", "size"]:
                self._say(f"{self.size.rows} {self.size.columns}")
            case ["echo", "$TERM"]:
                self._say(self.term)
            case _:
                self._end(f"{line}: this is no real shell", 127)

    def _say(self, text: str) -> None:
        self._shown.put_nowait(f"{text}\r\n$ ".encode())

    def _end(self, text: str, code: int) -> None:
        self._shown.put_nowait(f"{text}\r\n".encode())
        self._shown.put_nowait(b"")
        self._status.set_result(code)

    async def resize(self, size: TerminalSize) -> None:
        self.size = size

    async def wait(self) -> int:
        return await asyncio.shield(self._status)

    async def aclose(self) -> None:
        self.is_closed = True
        self._shown.put_nowait(b"")
        self._status.cancel()
