"""This project: labs through the same API that a test uses, in this process."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from pytest_benchscale import Lab, Node


def topology(nodes: int) -> str:
    """Return a topology file: idle nodes on one network."""
    names = "\n".join(f"  - name: n{number}" for number in range(nodes))
    return f"network: {{name: lan, subnet: 10.100.0.0/16}}\nnodes:\n{names}\n"


class Ours:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context: AbstractAsyncContextManager[Lab]
        self.node: Node

    async def up(self, nodes: str) -> list[float]:
        path = self.directory / f"{nodes}.yaml"
        path.write_text(topology(int(nodes)))
        start = perf_counter()
        from pytest_benchscale import Lab  # noqa: PLC0415  (its import is part of the first figure)

        self.context = Lab.open(path, backend="local")
        lab = await self.context.__aenter__()
        elapsed = perf_counter() - start
        self.node = lab["n0"]
        return [elapsed]

    async def down(self) -> list[float]:
        start = perf_counter()
        await self.context.__aexit__(None, None, None)
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            await self.node.exec(["true"], check=True)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        commands = [self.node.exec(["true"], check=True) for _ in range(int(count))]
        await asyncio.gather(*commands)
        return [perf_counter() - start]

    async def put(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        await self.node.put(Path(local), remote)
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        start = perf_counter()
        await self.node.exec(["rm", "-r", remote], check=True)
        return [perf_counter() - start]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        ours = Ours(Path(directory))
        asyncio.run(serve(ours.up, ours.down, ours.exec, ours.burst, ours.put, ours.remove))


if __name__ == "__main__":
    main()
