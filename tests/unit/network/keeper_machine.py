"""A machine of its own, for tests of what changes traffic control: run as a program, it prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from pytest_benchscale.errors import LabError
from pytest_benchscale.network.keeping import Keeping
from pytest_benchscale.network.netlink import Netlink
from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    AddMirror,
    DeleteClassifier,
    DeleteDevice,
    SetRate,
    Step,
)
from pytest_benchscale.transports.namespace import linux

QUEUE: list[Step] = [AddMirror("queue"), SetRate("queue", 125_000, 4000, 40_000)]
FILTER: list[Step] = [
    AddClassifier("tap"),
    AddFilter("tap", "ingress", 1, ((6, 0, 0, 0xFFFFFFFF),), "queue"),
]


def devices() -> list[str]:
    """Return the network devices that there are."""
    return sorted(name for _, name in socket.if_nameindex())


def tap(*, there: bool) -> None:
    """Make or delete the device that filters are on."""
    links = Netlink()
    if there:
        links.add_bridge("tap")
    else:
        links.delete_link("tap")
    links.flush()
    links.close()


async def refused(keeping: Keeping, steps: Sequence[Step]) -> str:
    """Return how a change fails."""
    try:
        await keeping.change(steps)
    except (OSError, LabError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def use() -> None:
    """Change something, say so, and be there until we are killed."""
    keeping = Keeping()
    await keeping.change([*QUEUE, *FILTER])
    print(json.dumps(devices()), flush=True)
    await asyncio.sleep(1000)


def killed(number: signal.Signals) -> object:
    """Have a process use it, and kill that; return the devices before and after."""
    argv = [sys.executable, __file__, "use"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as user:
        assert user.stdout is not None
        there = json.loads(user.stdout.readline())
        os.killpg(user.pid, number)
    deadline = time.monotonic() + 10
    while "queue" in devices() and time.monotonic() < deadline:
        time.sleep(0.01)
    after = devices()
    tap(there=False)
    return there, after


async def closed() -> object:
    """Close one twice, and before it has done anything; use the next one on the same device."""
    one, other = Keeping(), Keeping()
    await one.aclose()
    await one.change([*QUEUE, *FILTER])
    there = devices()
    await one.aclose()
    await one.aclose()
    gone = devices()
    await other.change(FILTER[:1])  # of which a device has one
    await other.aclose()
    return there, gone


async def exchanged() -> object:
    """Have the device taken away and come again, as that of a machine that is started again."""
    keeping = Keeping()
    await keeping.change([*QUEUE, *FILTER])
    tap(there=False)
    tap(there=True)
    await keeping.change([*QUEUE, *FILTER])
    there = devices()
    await keeping.change([DeleteClassifier("tap"), DeleteDevice("queue")])
    gone = devices()
    await keeping.aclose()
    return there, gone


async def wrong() -> object:
    """Ask for what the kernel refuses, for a device that is somebody else's, and of one that is gone."""
    keeping = Keeping()
    unknown = await refused(keeping, [AddClassifier("nosuch")])
    foreign = await refused(keeping, [AddMirror("tap")])
    assert keeping.pid is not None
    os.kill(keeping.pid, signal.SIGKILL)
    gone = await refused(keeping, QUEUE)
    works = await refused(keeping, QUEUE)
    await keeping.aclose()
    return unknown, foreign, gone, works, devices()


def main(scene: str) -> None:
    """Play a scene in a network namespace of our own."""
    if scene == "use":
        asyncio.run(use())
    if os.geteuid() != 0:
        linux.unshare(linux.CLONE_NEWUSER)
    linux.unshare(linux.CLONE_NEWNET)
    tap(there=True)
    if scene in signal.Signals.__members__:
        shown = killed(signal.Signals[scene])
    else:
        shown = asyncio.run({"closed": closed, "exchanged": exchanged, "wrong": wrong}[scene]())
    print(json.dumps(shown))


if __name__ == "__main__":
    main(sys.argv[1])
