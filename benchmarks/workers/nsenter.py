"""The command line's way into a node: `nsenter`, `tar` through it, and `cp` through /proc/PID/root.

The node is one of the floor's. Commands are started as a test would, with their output captured.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from subprocess import PIPE, Popen, run
from time import perf_counter

from benchmarks.workers.protocol import serve


class Nsenter:
    def __init__(self) -> None:
        self.pid = 0

    @property
    def true(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "--", "true"]

    @property
    def root(self) -> str:
        return f"/proc/{self.pid}/root"

    async def target(self, pid: str) -> list[float]:
        self.pid = int(pid)
        return []

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            run(self.true, check=True, capture_output=True)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        commands = [Popen(self.true, stdout=PIPE, stderr=PIPE) for _ in range(int(count))]
        for command in commands:
            command.communicate()
        return [perf_counter() - start]

    async def put(self, local: str, remote: str) -> list[float]:
        """Pipe a tar of `local` into the directory `remote`."""
        Path(f"{self.root}{remote}").mkdir()
        source = Path(local)
        start = perf_counter()
        pack = Popen(["tar", "-C", source.parent, "-cf", "-", source.name], stdout=PIPE)
        unpack = ["nsenter", "-t", str(self.pid), "-m", "--", "tar", "-C", remote, "-xf", "-"]
        run(unpack, check=True, stdin=pack.stdout)
        if pack.wait():
            raise RuntimeError(f"tar ended with {pack.returncode}")
        return [perf_counter() - start]

    async def copy(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        run(["cp", "-a", local, f"{self.root}{remote}"], check=True)
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        path = Path(f"{self.root}{remote}")
        start = perf_counter()
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return [perf_counter() - start]


if __name__ == "__main__":
    nsenter = Nsenter()
    asyncio.run(
        serve(
            nsenter.target, nsenter.exec, nsenter.burst, nsenter.put, nsenter.copy, nsenter.remove
        )
    )
