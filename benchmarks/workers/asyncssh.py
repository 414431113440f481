"""asyncssh: one connection, a session for each command; and its sftp."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from time import perf_counter
from typing import Any

from benchmarks.workers.protocol import serve

MOST = 5
"""How many commands at once: an sshd lets one connection carry ten, with those that ended a moment ago."""


class Asyncssh:
    def __init__(self, port: str, key: str) -> None:
        self.port = int(port)
        self.key = key
        self.connection: Any = None

    async def up(self, _: str) -> list[float]:
        start = perf_counter()
        self.connection = await import_module("asyncssh").connect(
            "127.0.0.1",
            self.port,
            username="root",
            client_keys=[self.key],
            known_hosts=None,
            config=None,
        )
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        self.connection.close()
        await self.connection.wait_closed()
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            await self.connection.run("true", check=True)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        turns = asyncio.Semaphore(MOST)

        async def one() -> None:
            async with turns:
                await self.connection.run("true", check=True)

        start = perf_counter()
        await asyncio.gather(*(one() for _ in range(int(count))))
        return [perf_counter() - start]

    async def sftp(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        async with self.connection.start_sftp_client() as sftp:
            await sftp.put(local, remote, recurse=True)
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        start = perf_counter()
        await self.connection.run(f"rm -r {remote}", check=True)
        return [perf_counter() - start]


if __name__ == "__main__":
    it = Asyncssh(*sys.argv[1:])
    asyncio.run(serve(it.up, it.down, it.exec, it.burst, it.sftp, it.remove))
