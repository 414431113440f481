"""What the peers on a container daemon share: the same nodes, the same jobs, eight calls at once.

A node is an idle container on one network that has no way out, with its name as alias, as ours is. The
daemon is the one that DOCKER_HOST names.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from benchmarks.workers.protocol import Verb, serve

LABEL = "benchscale-benchmark"
"""On everything that a peer creates; the value is the run."""

INTERNAL, OPEN = "internal", "open"
"""Kinds of networks, on a worker's command line."""

AT_ONCE = 8
"""How many calls a daemon gets at a time; it does not get faster with more."""

IDLE = ("sleep", "infinity")
TRUE = ("true",)


@dataclass(frozen=True)
class Setting:
    """What a worker's command line says: its own name, the run, the image of all nodes, and more.

    `internal`: its network is to be Docker's kind without a way out.
    """

    name: str
    run: str
    image: str
    internal: bool
    more: tuple[str, ...]

    @classmethod
    def parse(cls) -> Setting:
        name, run, image, kind, *more = sys.argv[1:]
        return cls(name, run, image, kind == INTERNAL, tuple(more))

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.run}

    @property
    def network(self) -> str:
        return f"benchscale-benchmark-{self.run}-{self.name}"

    def container(self, number: int) -> str:
        return f"{self.network}-n{number}"


class Peer(ABC):
    """A client whose calls block; one after the other, or `at_once` in as many threads."""

    def __init__(self, setting: Setting, at_once: int = 1) -> None:
        self.setting = setting
        self.nodes = 0
        self.threads = ThreadPoolExecutor(at_once) if at_once > 1 else None

    def each(self, work: Callable[[int], object], numbers: Iterable[int]) -> None:
        for _ in self.threads.map(work, numbers) if self.threads else map(work, numbers):
            pass

    def create(self) -> None:
        self.create_network()
        self.each(self.create_node, range(self.nodes))

    def destroy(self) -> None:
        self.each(self.destroy_node, range(self.nodes))
        self.destroy_network()

    @abstractmethod
    def run(self, node: int, argv: Iterable[str]) -> None:
        """Run a command in a node and take its output; raises when it fails."""

    def create_network(self) -> None:
        raise NotImplementedError

    def destroy_network(self) -> None:
        raise NotImplementedError

    def create_node(self, number: int) -> object:
        raise NotImplementedError

    def destroy_node(self, number: int) -> object:
        raise NotImplementedError

    async def up(self, nodes: str) -> list[float]:
        self.nodes = int(nodes)
        start = perf_counter()
        self.create()
        return [perf_counter() - start]

    async def down(self) -> list[float]:
        start = perf_counter()
        self.destroy()
        return [perf_counter() - start]

    async def exec(self, count: str) -> list[float]:
        seconds = []
        for _ in range(int(count)):
            start = perf_counter()
            self.run(0, TRUE)
            seconds.append(perf_counter() - start)
        return seconds

    async def burst(self, count: str) -> list[float]:
        start = perf_counter()
        self.each(lambda _: self.run(0, TRUE), range(int(count)))
        return [perf_counter() - start]

    async def everywhere(self) -> list[float]:
        start = perf_counter()
        self.each(lambda node: self.run(node, TRUE), range(self.nodes))
        return [perf_counter() - start]

    async def remove(self, remote: str) -> list[float]:
        start = perf_counter()
        self.run(0, ("rm", "-r", remote))
        return [perf_counter() - start]

    def main(self, *more: Verb) -> None:
        verbs: list[Verb] = [self.up, self.down, self.exec, self.burst, self.everywhere]
        asyncio.run(serve(*verbs, self.remove, *more))
