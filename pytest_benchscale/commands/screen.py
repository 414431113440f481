"""The terminal that a command of ours was started on, lent to a terminal in a node for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pytest_benchscale.commands.streams import read_stdin, write_stdout
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.block import SyncBlock
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.terminal import NodeTerminal

__all__ = ["Interrupted", "SyncTerminal", "converse", "interruptible", "kind", "size"]

_STDIN = 0
_USUAL_SIZE = (24, 80)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], object]


class Interrupted(Exception):
    """A signal wants this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class SyncTerminal(SyncBlock[NodeTerminal]):
    """A terminal in a node for a `with` block."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Have signals that end this process raise `Interrupted` in the block, once; later ones are ignored."""

    def interrupt(signum: int, _: FrameType | None) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    with _handling(dict.fromkeys(_ENDING, interrupt)):
        yield


def size() -> tuple[int, int]:
    """Return the rows and columns of our terminal."""
    try:
        here = os.get_terminal_size(_STDIN)
    except OSError:
        return _USUAL_SIZE
    return (here.lines, here.columns) if here.lines and here.columns else _USUAL_SIZE


def kind() -> str:
    """Return what our terminal is, as programs know it."""
    return os.environ.get("TERM") or "xterm"


def converse(node: Node, terminal: NodeTerminal) -> int:
    """Lend our terminal to one in a node until its command ends, and return the exit code. Blocks.

    Every key goes there, also Ctrl-C. However this ends, our terminal has the settings that it had.

    Raises:
        NodeDied: the node ended first.
        Interrupted: a signal came; see `interruptible`.
    """
    conversation = _Conversation(terminal)
    with _raw() as set_raw:

        def goes_on(_signum: int, _frame: FrameType | None) -> None:
            set_raw()  # whoever stopped us has taken the terminal back
            conversation.look()

        handlers: dict[signal.Signals, Handler] = {
            signal.SIGWINCH: lambda _signum, _frame: conversation.look(),
            signal.SIGCONT: goes_on,
        }
        with _handling(handlers):
            return node.portal.call_blocking(conversation.hold)


class _Conversation:
    """What goes on between the two terminals; `hold` runs in the portal."""

    def __init__(self, terminal: NodeTerminal) -> None:
        self._terminal = terminal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._changed.set()  # it may have been resized since the other one was made

    def look(self) -> None:
        """Take note that our terminal may have another size. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    async def hold(self) -> int:
        self._loop = asyncio.get_running_loop()
        showing = asyncio.create_task(self._show())
        others = [asyncio.create_task(self._type()), asyncio.create_task(self._follow_size())]
        try:
            await asyncio.wait({showing, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                if task.done():
                    task.result()  # raises what went wrong
            await showing
        finally:
            for task in (showing, *others):
                task.cancel()
            await asyncio.gather(showing, *others, return_exceptions=True)
        return await self._terminal.wait()

    async def _show(self) -> None:
        while data := await self._terminal.receive():
            await write_stdout(data)

    async def _type(self) -> None:
        """Send what is typed, until nobody reads it any more."""
        with suppress(LabError):  # the command has ended: `_show` has the rest
            while data := await read_stdin():
                await self._terminal.send(data)
            raise Interrupted(signal.SIGHUP)  # our terminal is gone
        await asyncio.Event().wait()

    async def _follow_size(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._terminal.resize(*size())


@contextmanager
def _raw() -> Iterator[Callable[[], None]]:
    """Have our terminal hand on every key in this block; the value makes it so once more."""
    before = termios.tcgetattr(_STDIN)

    def set_raw() -> None:
        with suppress(termios.error):  # it is gone, which is noticed elsewhere
            tty.setraw(_STDIN, termios.TCSADRAIN)

    try:
        set_raw()
        yield set_raw
    finally:
        with suppress(termios.error):
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextmanager
def _handling(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Have signals handled so in this block; only in the main thread."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
