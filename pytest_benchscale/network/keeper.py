"""A process that changes traffic control in a network namespace that outlives us, and clears up after us.

Devices made there would stay when whoever asked for them is killed. So they are made by this process,
which takes them away at the end of its input, however that came about. A line of input is a JSON list of
steps, a line of output the answer: `{}`, or `{"errno": ..., "text": ...}`. Only the standard library is
imported.
"""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import socket
import sys

from pytest_benchscale.network.standing import Standing
from pytest_benchscale.network.steps import AddMirror, from_json
from pytest_benchscale.network.traffic import TrafficControl

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pytest_benchscale.network.steps import Step

__all__ = ["main"]


class _Keeper:
    """What was made, and the way to the kernel."""

    def __init__(self) -> None:
        self._traffic = TrafficControl()
        self._standing = Standing()

    def change(self, steps: Sequence[Step]) -> None:
        """Carry out steps; raises `OSError` for the first that the kernel refused."""
        self._take_away(self._standing.leftovers(steps))
        for step in steps:
            if isinstance(step, AddMirror) and _exists(step.device):
                raise FileExistsError(errno.EEXIST, "a device of this name is there", step.device)
        self._standing.note(steps)  # of those that failed, too: they may have been done in part
        self._traffic.carry_out(steps)

    def clear(self) -> None:
        """Take away everything that was made."""
        self._take_away(self._standing.removal())

    def _take_away(self, steps: Sequence[Step]) -> None:
        for step in steps:
            with contextlib.suppress(OSError):  # it went with the device that it was on
                self._traffic.carry_out([step])


def main() -> None:
    """Carry out what comes until the input ends; then take everything away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for pytest, which then ends its labs
    signal.signal(signal.SIGTERM, _leave)
    keeper = _Keeper()
    try:
        for line in sys.stdin.buffer:
            answer = _answer(keeper, json.loads(line))
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # who asked is gone
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.clear()


def _answer(keeper: _Keeper, steps: list[list[Any]]) -> dict[str, object]:
    try:
        keeper.change([from_json(step) for step in steps])
    except OSError as error:
        text = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        return {"errno": error.errno, "text": text}
    return {}


def _exists(device: str) -> bool:
    try:
        socket.if_nametoindex(device)
    except OSError:
        return False
    return True


def _leave(_signum: int, _frame: object) -> None:
    raise SystemExit(1)
