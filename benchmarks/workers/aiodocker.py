"""aiodocker: the daemon's API from asyncio, eight calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from time import perf_counter
from typing import Any

from benchmarks.workers.peer import AT_ONCE, IDLE, TRUE, Setting
from benchmarks.workers.protocol import serve


class Aiodocker:
    def __init__(self, setting: Setting, client: Any) -> None:
        self.setting = setting
        self.client = client
        self.net: Any = None
        self.containers: dict[int, Any] = {}
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def each(self, work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
        async def one(number: int) -> None:
            async with self.turns:
                await work(number)

        await asyncio.gather(*map(one, numbers))

    async def create_node(self, number: int) -> None:
        network, name = self.setting.network, f"n{number}"
        config = {
            "Image": self.setting.image,
            "Cmd": IDLE,
            "Hostname": name,
            "Labels": self.setting.labels,
            "HostConfig": {"NetworkMode": network},
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [name]}}},
        }
        name = self.setting.container(number)
        self.containers[number] = await self.client.containers.run(config, name=name)

    async def destroy_node(self, number: int) -> None:
        await self.containers.pop(number).delete(force=True, v=True)

    async def run_true(self, node: int) -> None:
        execution = await self.containers[node].exec(TRUE)
        async with execution.start() as stream:
            while await stream.read_out() is not None:
                pass
        code = (await execution.inspect())["ExitCode"]
        if code:
            raise RuntimeError(f"true ended with {code}")

    async def up(self, nodes: str) -> list[float]:
        kind = {"Driver": "bridge", "Internal": self.setting.internal}
        options = {"Name": self.setting.network, **kind}
        start = perf_counter()
        self.net = await self.client.networks.create({**options, "Labels": self.setting.labels})
        await self.each(self.create_node, range(int(nodes)))
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        await self.each(self.destroy_node, list(self.containers))
        await self.net.delete()
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            await self.run_true(0)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        await self.each(self.run_true, [0] * int(count))
        return [perf_counter() - start]

    async def everywhere(self) -> list[float]:
        start = perf_counter()
        await self.each(self.run_true, list(self.containers))
        return [perf_counter() - start]


async def main() -> None:
    async with import_module("aiodocker").Docker() as client:
        peer = Aiodocker(Setting.parse(), client)
        await serve(peer.up, peer.down, peer.exec, peer.burst, peer.everywhere)


if __name__ == "__main__":
    asyncio.run(main())
