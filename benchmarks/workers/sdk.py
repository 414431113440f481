"""The docker SDK for Python: one call after the other, or with threads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import docker

from benchmarks.workers.peer import IDLE, Peer, Setting


class Sdk(Peer):
    def __init__(self, setting: Setting) -> None:
        at_once, *network = setting.more or ("1",)
        super().__init__(setting, int(at_once))
        self.has_network = network != ["none"]
        self.client: Any = docker.from_env(timeout=300)
        self.containers: dict[int, Any] = {}
        self.net: Any = None

    def create_network(self) -> None:
        if not self.has_network:
            return
        self.net = self.client.networks.create(
            self.setting.network,
            driver="bridge",
            internal=self.setting.internal,
            labels=self.setting.labels,
        )

    def destroy_network(self) -> None:
        if self.net is not None:
            self.net.remove()

    def create_node(self, number: int) -> None:
        network, name = self.setting.network, f"n{number}"
        where: dict[str, Any] = {"network_mode": "none"}
        if self.has_network:
            endpoint = self.client.api.create_endpoint_config(aliases=[name])
            where = {"network": network, "networking_config": {network: endpoint}}
        self.containers[number] = self.client.containers.run(
            self.setting.image,
            list(IDLE),
            detach=True,
            name=self.setting.container(number),
            hostname=name,
            labels=self.setting.labels,
            **where,
        )

    def destroy_node(self, number: int) -> None:
        self.containers.pop(number).remove(force=True, v=True)

    def run(self, node: int, argv: Iterable[str]) -> None:
        code, output = self.containers[node].exec_run(list(argv), demux=True)
        if code:
            raise RuntimeError(f"{argv} ended with {code}: {output}")

    async def put(self, local: str, remote: str) -> list[float]:
        """Copy through `put_archive`, with a tar made in memory, as its users do."""
        start = perf_counter()
        archive, target = io.BytesIO(), Path(remote)
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(local, arcname=target.name)
        self.containers[0].put_archive(str(target.parent), archive.getvalue())
        return [perf_counter() - start]

    async def get(self, remote: str, local: str) -> list[float]:
        """Copy through `get_archive`."""
        start = perf_counter()
        chunks, _ = self.containers[0].get_archive(remote)
        archive = io.BytesIO(b"".join(chunks))
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(local, filter="tar")
        return [perf_counter() - start]


if __name__ == "__main__":
    sdk = Sdk(Setting.parse())
    sdk.main(sdk.put, sdk.get)
