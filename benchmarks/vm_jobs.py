"""How soon a virtual machine is ready: booting, going on from its kept state, led back to its checkpoint.

Rows begin with `libvirt`.

`guest` is what the guest itself takes: from the start of its kernel to the end of cloud-init, as it says on
its serial console.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.contestants import ContestantError
from benchmarks.jobs import Bench
from pytest_benchscale import BenchscaleError, Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.model import Topology
from tests.daemons import virtual
from tests.daemons.endpoints import Unreachable
from tests.daemons.guests import boot_reference, guest
from tests.daemons.roots import BuildError

__all__ = ["BACKEND", "JOBS", "up"]

BACKEND = "libvirt"
AGAIN = 3  # times for each first boot

_IMAGE = boot_reference()  # which is in the cache of before
_NODE = "{{name: node{n}, image: '{image}', memory_mb: 512}}"
_FINISHED = re.compile(r"Cloud-init v\. .* finished at .* Up (\d+\.\d+) seconds")


def up(bench: Bench) -> None:
    """Measure labs of one machine and of two."""
    try:
        guest()
        virtual.find()
    except (BuildError, Unreachable) as error:
        bench.results.miss(BACKEND, "ours", f"and its guest: {error}")
        return
    for machines in (1, 2):
        _measure(bench, machines)


def _measure(bench: Bench, machines: int) -> None:
    row = f"libvirt.up.{machines}"
    own: list[float] = []

    def ours() -> Mapping[str, Sequence[float]]:
        with _no_kept_states(bench.directory / f"cache-{machines}"):
            first, down, console = _up_and_down(machines)
            own[:] = [float(_FINISHED.findall(console)[-1])]
            again = [_up_and_down(machines) for _ in range(AGAIN)]
        return {
            f"{row}.first": [first],
            f"{row}.again": [seconds for seconds, _, _ in again],
            f"libvirt.down.{machines}": [down, *(seconds for _, seconds, _ in again)],
        }

    def guests() -> Mapping[str, Sequence[float]]:
        if not own:
            raise ContestantError("nobody booted it")
        return {f"{row}.first": own}

    turns = {"ours": ours, "guest": guests}
    bench.interleave(f"libvirt up {machines}", bench.repeat, turns)


def _up_and_down(machines: int) -> tuple[float, float, str]:
    """Return the seconds of both, and the console of the first machine."""
    topology = _topology(machines)
    begun = perf_counter()
    try:
        with Lab.open_sync(topology, backend=BACKEND) as lab:
            up = perf_counter() - begun
            console = lab.sync["node0"].logs()
            begun = perf_counter()
    except BenchscaleError as error:
        raise ContestantError(error.brief) from error
    return up, perf_counter() - begun, console


def reset(bench: Bench) -> None:
    """Measure what leads a machine back, and what building it again takes, from its kept state."""
    try:
        guest()
        virtual.find()
    except (BuildError, Unreachable) as error:
        bench.results.miss(BACKEND, "ours", f"and its guest: {error}")
        return
    _up_and_down(1)  # its first boot, where nothing is kept of one
    bench.interleave("libvirt reset", bench.repeat, {"ours": _led_back})


def _led_back() -> Mapping[str, Sequence[float]]:
    topology = _topology(1)
    options = LabOptions(resettable=True)
    checkpoints, resets = [], []
    try:
        with Lab.open_sync(topology, backend=BACKEND, options=options) as lab:
            checkpoint = partial(lab._context.backend.checkpoint, "node0")  # noqa: SLF001  none is public
            for _ in range(AGAIN):
                lab.sync["node0"].write_text("/srv/spoilt", "more")
                resets.append(_seconds(lab.sync.reset))
                checkpoints.append(_seconds(partial(lab.portal.call_blocking, checkpoint)))
                lab.sync.reset()  # the way in is a new one after a checkpoint
    except BenchscaleError as error:
        raise ContestantError(error.brief) from error
    up, down, _ = _up_and_down(1)
    return {
        "libvirt.reset": resets,
        "libvirt.checkpoint": checkpoints,
        "libvirt.rebuild": [up + down],
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun


def _topology(machines: int) -> Topology:
    nodes = ", ".join(_NODE.format(n=number, image=_IMAGE) for number in range(machines))
    return load_text(f"network: {{name: lan}}\nnodes: [{nodes}]")


@contextmanager
def _no_kept_states(cache: Path) -> Iterator[None]:
    """Have no kept state at first, and leave none."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
        for note in cache.glob("*/prepared/*/state.json"):
            _delete(json.loads(note.read_text())["volume"])
            note.unlink()


def _delete(volume: str) -> None:
    with virtual.connection(virtual.find()) as connection:
        for pool in connection.listAllStoragePools():
            found: list[Any] = [each for each in pool.listAllVolumes() if each.name() == volume]
            for each in found:
                each.delete(0)


JOBS = {"up": up, "reset": reset}
