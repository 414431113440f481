"""The contract, on machines that are there already."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.testing import BackendContract
from pytest_benchscale.topology.model import NodeSpec, Topology
from tests.contract.sshd_machines import SSHD, Keys, as_ssh, machines

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def bare(topology: Topology) -> Topology:
    """Return the nodes and networks alone: the rest is for the lab on top of them."""
    nodes = tuple(NodeSpec(name=node.name, networks=node.networks) for node in topology.nodes)
    return topology.model_copy(update={"nodes": nodes})


@pytest.mark.skipif(sys.platform != "linux" or not IS_ROOT, reason="needs root on Linux")
@pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
class TestSsh(BackendContract):
    backend = "ssh"
    keys: ClassVar[Keys]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _keys(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.keys = Keys(tmp_path_factory.mktemp("keys"))

    @classmethod
    def open(cls, text: str, directory: Path | None = None) -> AbstractContextManager[Lab]:
        return cls._opened(cls.topology(text, directory))

    @classmethod
    @contextmanager
    def _opened(cls, topology: Topology) -> Iterator[Lab]:
        with (
            Lab.open_sync(bare(topology), backend="local") as ground,
            machines(ground, cls.keys) as ports,
            Lab.open_sync(as_ssh(topology, ground, ports, cls.keys), backend="ssh") as lab,
        ):
            yield lab
