"""A fake backend and labs on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend


class MakeLab(Protocol):
    def __call__(
        self, *nodes: str | dict[str, Any], options: LabOptions = ..., **topology: Any
    ) -> Lab: ...


@pytest.fixture
def portal() -> Iterator[Portal]:
    with Portal(cleanup_deadline=10) as portal:
        yield portal


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def make_lab(portal: Portal, script: Script) -> MakeLab:
    """Make a lab on the fake backend, of nodes given by name or as mappings; it is not up."""

    def make(
        *nodes: str | dict[str, Any], options: LabOptions | None = None, **topology: Any
    ) -> Lab:
        named = [{"name": node} if isinstance(node, str) else node for node in nodes]
        declared = Topology.from_dict({"nodes": named, **topology})
        return Lab(declared, make_backend(script)(), portal=portal, options=options)

    return make


@pytest.fixture
async def lab(make_lab: MakeLab, script: Script) -> AsyncIterator[Lab]:
    """Two running nodes."""
    lab = make_lab("a", "b")
    await lab.up()
    yield lab
    await lab.down()
    assert script.is_clean
