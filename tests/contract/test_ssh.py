"""The contract, on machines that are there already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.testing import BackendContract
from pytest_benchscale.topology.model import NodeSpec, Topology
from tests.contract.sshd_machines import Keys, as_ssh, machines, needs_sshd


def bare(topology: Topology) -> Topology:
    """Return the nodes and networks alone: the rest is for the lab on top of them."""
    nodes = tuple(NodeSpec(name=node.name, networks=node.networks) for node in topology.nodes)
    plain = {"preset": None, "conditions": None}
    networks = tuple(network.model_copy(update=plain) for network in topology.networks)
    return topology.model_copy(update={"nodes": nodes, "networks": networks})


@needs_sshd
class TestSsh(BackendContract):
    backend = "ssh"
    keys: ClassVar[Keys]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _keys(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.keys = Keys(tmp_path_factory.mktemp("keys"))

    @classmethod
    @contextmanager
    def open(cls, text: str, directory: Path | None = None) -> Iterator[Lab]:
        with (
            cls._there(cls.topology(text, directory)) as topology,
            Lab.open_sync(topology, backend="ssh") as lab,
        ):
            yield lab

    @classmethod
    @contextmanager
    def open_resettable(cls, text: str) -> Iterator[Lab]:
        options = LabOptions(resettable=True)
        with (
            cls._there(cls.topology(text)) as topology,
            Lab.open_sync(topology, backend="ssh", options=options) as lab,
        ):
            yield lab

    @classmethod
    @asynccontextmanager
    async def open_in_loop(cls, text: str) -> AsyncIterator[Lab]:
        with cls._there(cls.topology(text)) as topology:
            async with Lab.open(topology, backend="ssh") as lab:
                yield lab

    @classmethod
    @contextmanager
    def _there(cls, topology: Topology) -> Iterator[Topology]:
        """Have machines for a topology; give it with their addresses."""
        with (
            Lab.open_sync(bare(topology), backend="local") as ground,
            machines(ground, cls.keys) as ports,
        ):
            yield as_ssh(topology, ground, ports, cls.keys)
