"""mininet: hosts on one Linux bridge, its fastest switch. Runs under the system's Python.

Its hosts are network namespaces only: they share processes, files and names with the machine.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from subprocess import Popen
from time import perf_counter
from typing import Any

from benchmarks.workers.protocol import serve


class Mininet:
    def __init__(self) -> None:
        self.net: Any = None

    async def up(self, nodes: str) -> list[float]:
        start = perf_counter()
        import_module("mininet.log").setLogLevel("error")
        bridge = import_module("mininet.nodelib").LinuxBridge
        network = import_module("mininet.net").Mininet
        self.net = network(controller=None, switch=bridge, ipBase="10.100.0.0/16")
        switch = self.net.addSwitch("s1")
        for number in range(int(nodes)):
            self.net.addLink(self.net.addHost(f"h{number}"), switch)
        self.net.start()
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        self.net.stop()
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            _, _, exit_code = self.net.hosts[0].pexec(["true"])
            seconds.append(perf_counter() - start)
            if exit_code:
                raise RuntimeError(f"true ended with {exit_code}")
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        commands: list[Popen[bytes]] = [
            self.net.hosts[0].popen(["true"]) for _ in range(int(count))
        ]
        for command in commands:
            command.communicate()
        return [perf_counter() - start]


if __name__ == "__main__":
    mininet = Mininet()
    asyncio.run(serve(mininet.up, mininet.down, mininet.exec, mininet.burst))
