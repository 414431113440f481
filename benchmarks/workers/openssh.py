"""The ssh command, all of it over one connection (ControlMaster); scp, and tar piped through ssh."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, Popen, run
from time import perf_counter

from benchmarks.workers.cli import pipe
from benchmarks.workers.protocol import serve


class OpenSsh:
    def __init__(self, directory: str, port: str, key: str) -> None:
        self.options = [
            *("-F", "none", "-i", key, "-o", f"Port={port}", "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", f"ControlPath={directory}/control"),
        ]

    def ssh(self, *words: str) -> list[str]:
        return ["ssh", *self.options, "root@127.0.0.1", *words]

    async def up(self, _: str) -> list[float]:
        start = perf_counter()
        run(["ssh", "-MNf", *self.options, "root@127.0.0.1"], check=True)
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        run(["ssh", "-O", "exit", *self.options, "127.0.0.1"], check=True, capture_output=True)
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            run(self.ssh("true"), check=True, capture_output=True)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        """Eight at once: an sshd lets one connection carry ten, with those that have just ended."""
        start, left = perf_counter(), int(count)
        while left > 0:
            some = min(8, left)
            commands = [Popen(self.ssh("true"), stdout=PIPE, stderr=PIPE) for _ in range(some)]
            for command in commands:
                command.communicate()
                if command.returncode:
                    raise RuntimeError(f"ssh ended with {command.returncode}")
            left -= some
        return [perf_counter() - start]

    async def scp(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        run(["scp", "-qr", *self.options, local, f"root@127.0.0.1:{remote}"], check=True)
        return [perf_counter() - start]

    async def tar(self, local: str, remote: str) -> list[float]:
        """Pipe a tar of `local` into the directory `remote`."""
        run(self.ssh("mkdir", remote), check=True)
        source = Path(local)
        start = perf_counter()
        pipe(
            ["tar", "-C", str(source.parent), "-cf", "-", source.name],
            self.ssh("tar", "-C", remote, "-xf", "-"),
        )
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        start = perf_counter()
        run(self.ssh("rm", "-r", remote), check=True)
        return [perf_counter() - start]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        it = OpenSsh(directory, *sys.argv[1:])
        asyncio.run(serve(it.up, it.down, it.exec, it.burst, it.scp, it.tar, it.remove))


if __name__ == "__main__":
    main()
