"""Labs of ours that are led back, built anew, and taken over, in this process."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

from benchmarks.workers.protocol import serve
from pytest_benchscale import Lab
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal

SETUP = ", setup: ['echo ready > /srv/ready']"
USE = "echo used > /srv/used"


class Upkeep:
    """`with_setup` is "1" where every node has a small `setup`, else "0".

    `rest` is how long, in seconds, nothing is asked of the daemon before what is measured: as long as a test
    that has its machines work, or a session that begins.
    """

    def __init__(self, directory: Path, backend: str, image: str) -> None:
        self.directory = directory
        self.backend = backend
        self.images = {"default": image} if image else {}

    async def reset(self, nodes: str, with_setup: str, rest: str) -> list[float]:
        """Lead a lab back whose nodes have all been used."""
        options = LabOptions(images=self.images, resettable=True)
        path = self._topology(int(nodes), with_setup)
        async with Lab.open(path, backend=self.backend, options=options) as lab:
            await lab.exec(USE)
            await asyncio.sleep(float(rest))
            start = perf_counter()
            await lab.reset()
            return [perf_counter() - start]

    async def rebuild(self, nodes: str, with_setup: str, rest: str) -> list[float]:
        """Take such a lab down and bring it up anew."""
        options = LabOptions(images=self.images)
        path = self._topology(int(nodes), with_setup)
        async with AsyncExitStack() as stack:
            async with AsyncExitStack() as first:
                lab = await first.enter_async_context(
                    Lab.open(path, backend=self.backend, options=options)
                )
                await lab.exec(USE)
                await asyncio.sleep(float(rest))
                start = perf_counter()
            await stack.enter_async_context(Lab.open(path, backend=self.backend, options=options))
            return [perf_counter() - start]

    async def build(self, nodes: str) -> list[float]:
        """Bring a lab up and keep it."""
        options = LabOptions(images=self.images)
        start = perf_counter()
        context = Lab.open(self._topology(int(nodes), "0"), backend=self.backend, options=options)
        async with context as lab:
            elapsed = perf_counter() - start
            await lab.keep(600)
        return [elapsed]

    async def reuse(self, rest: str = "0") -> list[float]:
        """Take the kept lab over, and take it down."""
        await asyncio.sleep(float(rest))
        [found] = [one for one in Ledger().labs() if one.kept is not None]
        entry, kept = Ledger().take(found.lab_id), found.kept
        assert entry is not None
        assert kept is not None
        with Portal() as portal:
            start = perf_counter()
            lab = await portal.call(attach, entry, kept, portal, LabOptions(images=self.images))
            elapsed = perf_counter() - start
            await lab.down()
        return [elapsed]

    def _topology(self, nodes: int, with_setup: str) -> Path:
        path = self.directory / f"{nodes}-{with_setup}.yaml"
        setup = SETUP if with_setup == "1" else ""
        names = "\n".join(f"  - {{name: n{number}{setup}}}" for number in range(nodes))
        path.write_text(f"network: {{name: lan}}\nnodes:\n{names}\n")
        return path


async def work(upkeep: Upkeep) -> None:
    """Answer, and end what was kept and not taken over, where a run was interrupted."""
    try:
        await serve(upkeep.reset, upkeep.rebuild, upkeep.build, upkeep.reuse)
    finally:
        if any(one.kept is not None for one in Ledger().labs()):
            await upkeep.reuse()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["BENCHSCALE_STATE_DIR"] = f"{directory}/state"
        asyncio.run(work(Upkeep(Path(directory), *sys.argv[1:])))


if __name__ == "__main__":
    main()
