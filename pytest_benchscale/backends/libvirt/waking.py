"""Guests that stand still and go on: how one is left in peace before, and what it is told after."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

import anyio

from pytest_benchscale.backends.libvirt.knocking import Door, Knocker
from pytest_benchscale.backends.libvirt.readiness import Guest
from pytest_benchscale.errors import LabError, NodeDied
from pytest_benchscale.transports.base import Command, RunningCommand

__all__ = ["until_awake", "until_quiet"]

_QUIET_SECONDS = 2.0
_NOBODYS_PORT = 1  # tcpmux: the machine itself answers that nobody is there
_COMMAND_SECONDS = 30.0
_RANDOM_BYTES = 64
# What is written to urandom counts from the next reseeding on. RNDRESEEDCRNG (random(4)) does that now; where
# nothing can call it, it is done within a minute.
# It asks for the time when the login is done and it runs, which takes a slow guest seconds.
_SCRIPT = """\
echo
read -r now
date -u -s "@$now" >/dev/null 2>&1 || date -u -s "@${now%.*}" >/dev/null
status=$?
cat >/dev/urandom
perl -e 'open(F, ">", "/dev/urandom") && ioctl(F, 0x5207, 0)' 2>/dev/null ||
    python3 -c 'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)' 2>/dev/null
exit $status
"""


async def until_quiet(guest: Guest) -> None:
    """Wait until a guest knows that our connections to it, just closed, are closed.

    Frames come in the order in which they were sent: it has the end of the connections when it answers to
    what came after. One that answers nothing keeps them, which costs it some memory.
    """
    with anyio.move_on_after(_QUIET_SECONDS):
        await Knocker(guest.host, _NOBODYS_PORT, guest.through).until(Door.CLOSED, Door.OPEN)


async def until_awake(guest: Guest, seconds: float, *, is_there: bool = False) -> None:
    """Wait until a guest that goes on answers; set its clock, which has stood still, and its random numbers.

    Whatever goes on from one state would draw the same ones. Of one that `is_there` we know that its sshd
    listens already.

    Raises:
        NodeDied: it ended.
        LabError: it does not answer within `seconds`, or has no clock to set.
    """
    work = asyncio.create_task(_wake(guest, is_there=is_there))
    death = asyncio.ensure_future(guest.died())
    try:
        done, _ = await asyncio.wait(
            {work, death}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if work in done:
            return work.result()
        if death in done:
            raise NodeDied(guest.node, death.result())
        raise LabError(
            f"node {guest.node!r} did not answer within {seconds:g} s", node=guest.node, step="wake"
        )
    finally:
        for task in (work, death):
            task.cancel()
        await asyncio.gather(work, death, return_exceptions=True)


async def _wake(guest: Guest, *, is_there: bool) -> None:
    if not is_there:
        await Knocker(guest.host, guest.port, guest.through).until(Door.OPEN)
    running = await guest.launcher.start(Command(("sh", "-c", _SCRIPT)), stdin=True)
    try:
        with anyio.fail_after(_COMMAND_SECONDS):
            returncode, words = await _set(running)
    except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise _unset(guest, "the command for it ended early, or never") from error
    finally:
        with anyio.CancelScope(shield=True):
            await running.aclose()
    if returncode != 0:
        raise _unset(guest, words)


async def _set(running: RunningCommand) -> tuple[int, str]:
    """Send what the script asks for; return how it ended, and what it said."""
    assert running.stdin is not None  # noqa: S101  it was started with one
    await running.stdout.receive()
    await running.stdin.send(f"{time.time():.3f}\n".encode() + os.urandom(_RANDOM_BYTES))
    await running.stdin.aclose()
    returncode = await running.wait()
    words = b""
    with suppress(anyio.EndOfStream):
        while returncode:
            words += await running.stderr.receive()
    return returncode, words.decode(errors="replace")


def _unset(guest: Guest, details: str) -> LabError:
    return LabError(
        f"the clock of node {guest.node!r} cannot be set",
        node=guest.node,
        step="wake",
        details=details,
    )
