"""testcontainers: containers started one after the other, as its fixtures are; without its reaper."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from benchmarks.workers.peer import IDLE, Peer, Setting

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its image would have to be pulled
os.environ["RYUK_DISABLED"] = "true"


class Testcontainers(Peer):
    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.make_container = import_module("testcontainers.core.container").DockerContainer
        self.make_network = import_module("testcontainers.core.network").Network
        logging.disable(logging.CRITICAL)
        self.net: Any = None
        self.containers: list[Any] = []

    def create_network(self) -> None:
        options = {"internal": self.setting.internal, "labels": self.setting.labels}
        self.net = self.make_network(docker_network_kw=options).create()

    def destroy_network(self) -> None:
        self.net.remove()

    def create_node(self, number: int) -> None:
        name = f"n{number}"
        container = self.make_container(self.setting.image, command=" ".join(IDLE))
        container.with_network(self.net).with_network_aliases(name)
        container.with_kwargs(hostname=name, labels=self.setting.labels)
        self.containers.append(container.start())

    def destroy_node(self, number: int) -> None:
        self.containers.pop().stop()

    def run(self, node: int, argv: Iterable[str]) -> None:
        result = self.containers[node].exec(list(argv))
        if result.exit_code:
            raise RuntimeError(f"{argv} ended with {result.exit_code}: {result.output!r}")


if __name__ == "__main__":
    Testcontainers(Setting.parse()).main()
