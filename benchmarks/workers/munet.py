"""munet: nodes with a pid, mount, net and uts namespace on one bridge, through its own builder."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from importlib import import_module
from time import perf_counter
from typing import Any

from benchmarks.workers.protocol import serve


def configuration(nodes: int, directory: str) -> dict[str, Any]:
    """Return a topology as munet has it; the path only says where to look for more of it."""
    return {
        "version": 1,
        "config_pathname": f"{directory}/munet.yaml",
        "topology": {
            "networks-autonumber": True,
            "networks": [{"name": "net0"}],
            "nodes": [{"name": f"n{number}", "connections": ["net0"]} for number in range(nodes)],
        },
    }


class Munet:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.net: Any = None

    async def up(self, nodes: str) -> list[float]:
        config = configuration(int(nodes), self.directory)
        rundir = tempfile.mkdtemp(dir=self.directory)
        start = perf_counter()
        build = import_module("munet.parser").async_build_topology
        logging.disable(logging.CRITICAL)
        self.net = await build(config=config, rundir=rundir, unshare_inline=False)
        await self.net.run()
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        await self.net.async_delete()
        elapsed = perf_counter() - start
        import_module("munet.native").L3NodeMixin.next_ord = 1  # as munet's own fixture does
        import_module("munet.base").Bridge.next_ord = 1
        return [elapsed]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            await self.run_true()
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        await asyncio.gather(*(self.run_true() for _ in range(int(count))))
        return [perf_counter() - start]

    async def run_true(self) -> None:
        exit_code, _, _ = await self.net.hosts["n0"].async_cmd_status(["true"])
        if exit_code:
            raise RuntimeError(f"true ended with {exit_code}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        munet = Munet(directory)
        asyncio.run(serve(munet.up, munet.down, munet.exec, munet.burst))


if __name__ == "__main__":
    main()
