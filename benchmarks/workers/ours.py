"""This project: labs through the same API that a test uses, in this process."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.workers.protocol import serve

if TYPE_CHECKING:
    from pytest_benchscale import Lab, Node
    from pytest_benchscale.lab.options import LabOptions


def topology(nodes: int, network: str = "{name: lan, subnet: 10.100.0.0/16}") -> str:
    """Return a topology file: idle nodes on one network."""
    names = "\n".join(f"  - name: n{number}" for number in range(nodes))
    return f"network: {network}\nnodes:\n{names}\n"


class Ours:
    def __init__(
        self, directory: Path, backend: str = "local", image: str = "", machine: str = ""
    ) -> None:
        self.directory = directory
        self.backend = backend
        self.image = image
        self.machine = machine  # keys of the one node, where it is a machine that is there
        self.context: AbstractAsyncContextManager[Lab] | None = None
        self.lab: Lab
        self.node: Node

    def topology(self, nodes: int) -> str:
        if self.machine:
            return f"nodes:\n  - {{name: n0, {self.machine}}}\n"
        if self.backend == "local":
            return topology(nodes)
        return topology(nodes, "{name: lan}")  # others may have containers on this machine

    def options(self) -> LabOptions | None:
        if not self.image:
            return None
        from pytest_benchscale.lab.options import LabOptions  # noqa: PLC0415  (as above)

        return LabOptions(images={"default": self.image})

    async def up(self, nodes: str) -> list[float]:
        return await self.bring_up(nodes, self.topology(int(nodes)))

    async def up_limited(self, nodes: str) -> list[float]:
        network = "{name: lan, subnet: 10.100.0.0/16, conditions: {bandwidth_kbps: 100000}}"
        return await self.bring_up(f"{nodes}-limited", topology(int(nodes), network))

    async def up_resettable(self, nodes: str) -> list[float]:
        from pytest_benchscale.lab.options import LabOptions  # noqa: PLC0415  (as below)

        options = LabOptions(resettable=True)
        return await self.bring_up(nodes, self.topology(int(nodes)), options)

    async def reset(self) -> list[float]:
        start = perf_counter()
        await self.lab.reset()
        return [perf_counter() - start]

    async def cut(self, attest: str) -> list[float]:
        names = list(self.lab.nodes)
        half = len(names) // 2
        partition = self.lab.partition(set(names[:half]), set(names[half:]), attest=attest == "1")
        start = perf_counter()
        async with partition:
            begun = perf_counter() - start
            start = perf_counter()
        return [begun, perf_counter() - start]

    async def bring_up(
        self, name: str, text: str, options: LabOptions | None = None
    ) -> list[float]:
        path = self.directory / f"{name}.yaml"
        path.write_text(text)
        start = perf_counter()
        from pytest_benchscale import Lab  # noqa: PLC0415  (its import is part of the first figure)

        context = Lab.open(path, backend=self.backend, options=options or self.options())
        self.lab = await context.__aenter__()
        elapsed = perf_counter() - start
        self.context = context
        self.node = self.lab["n0"]
        return [elapsed]

    async def down(self) -> list[float]:
        context, self.context = self.context, None
        start = perf_counter()
        if context is not None:
            await context.__aexit__(None, None, None)
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

    async def everywhere(self) -> list[float]:
        start = perf_counter()
        results = await self.lab.exec(["true"])
        elapsed = perf_counter() - start
        for result in results.values():
            result.check()
        return [elapsed]

    async def put(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        await self.node.put(Path(local), remote)
        return [perf_counter() - start]

    async def get(self, remote: str, local: str) -> list[float]:
        start = perf_counter()
        await self.node.get(remote, Path(local))
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        start = perf_counter()
        await self.node.exec(["rm", "-r", remote], check=True)
        return [perf_counter() - start]


async def work(ours: Ours) -> None:
    verbs = (ours.up, ours.up_limited, ours.cut, ours.down, ours.exec, ours.burst, ours.everywhere)
    try:
        await serve(*verbs, ours.up_resettable, ours.reset, ours.put, ours.get, ours.remove)
    finally:
        await ours.down()  # where a run was interrupted: containers do not end with this process


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(work(Ours(Path(directory), *sys.argv[1:])))


if __name__ == "__main__":
    main()
