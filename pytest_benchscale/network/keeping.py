"""The conduit to a network namespace that outlives us: through a process that clears up after us."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

import pytest_benchscale
from pytest_benchscale.errors import LabError
from pytest_benchscale.network.steps import Step, to_json

__all__ = ["Keeping"]

_CHANGE_SECONDS = 20.0
_END_SECONDS = 20.0
_WHAT = "the process that changes this machine's traffic control"
_LAST_WORDS = 2000
# -I and -S: no site-packages, no environment; the process needs the standard library only.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pytest_benchscale.network.keeper import main; main()"
)


class Keeping:
    """What we have changed in our own network namespace; `keeper` is the process that did it.

    That is started with the first change. It takes everything away when it is closed, and when we end,
    however we do.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        return None if self._process is None else self._process.pid

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps, to their end, also when the caller is cancelled meanwhile.

        Raises:
            OSError: the kernel refused one.
            LabError: the process is gone, or does not answer.
        """
        line = f"{json.dumps([to_json(step) for step in steps])}\n".encode()
        async with self._turn:
            with anyio.CancelScope(shield=True):
                answer = await self._ask(line)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])

    async def aclose(self) -> None:
        """Have everything taken away, and return when it is. Safe to call twice, and before any change."""
        async with self._turn:
            process, self._process = self._process, None
            if process is None:
                return
            with anyio.CancelScope(shield=True):
                await _end(process)

    async def _ask(self, line: bytes) -> dict[str, int | str]:
        if self._process is None:
            self._process = await _start()
        process = self._process
        assert process.stdin is not None  # noqa: S101  both are pipes
        assert process.stdout is not None  # noqa: S101
        words = b""
        with anyio.move_on_after(_CHANGE_SECONDS) as deadline:
            try:
                process.stdin.write(line)
                await process.stdin.drain()
                words = await process.stdout.readline()
                if words.startswith(b"{"):
                    answer: dict[str, int | str] = json.loads(words)
                    return answer
                words += await process.stdout.read()
            except ConnectionError:
                words += await process.stdout.read()
        self._process = None
        await _end(process)
        late = f"did not answer within {_CHANGE_SECONDS:g} s"
        raise LabError(
            f"{_WHAT} {late if deadline.cancelled_caught else 'is gone'}",
            step="conditions",
            details=words.decode(errors="replace").strip()[-_LAST_WORDS:] or None,
            resolution="was it killed from outside, or by the kernel for lack of memory?",
        )


async def _start() -> asyncio.subprocess.Process:
    source = str(Path(pytest_benchscale.__file__).parent.parent)
    argv = [sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            "-c",
            _BOOT,
            source,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for pytest, which then ends its labs
            cwd="/",
        )
    except OSError as error:
        raise LabError(f"{_WHAT} cannot be started: {error}", step="conditions") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input and wait for its end, for which it takes everything away first."""
    assert process.stdin is not None  # noqa: S101  it is a pipe
    process.stdin.close()
    with anyio.move_on_after(_END_SECONDS) as scope:
        await process.communicate()
    if scope.cancelled_caught:
        process.kill()
        await process.wait()
