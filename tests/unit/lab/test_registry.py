"""Which backends there are, and which one `auto` means."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend

ALL = ("local", "docker", "podman", "libvirt", "ssh", "one", "two")


@pytest.fixture(autouse=True)
def _only_what_the_test_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entry_points", dict)
    monkeypatch.setattr(registry, "_registered", {})


def _topology(**more: Any) -> Topology:
    return Topology.from_dict({"nodes": [{"name": "a"}], **more}, backends=ALL)


def _add(name: str) -> Script:
    script = Script()
    registry.register(name, make_backend(script, name))
    return script


def _entry_points(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = {
        name: EntryPoint(name=name, value=value, group=registry.GROUP)
        for name, value in points.items()
    }
    monkeypatch.setattr(registry, "_entry_points", lambda: found)


def test_ours_come_first_the_cheapest_before_the_others() -> None:
    for name in ("zeta", "ssh", "docker", "alpha", "local"):
        _add(name)
    assert registry.names() == ("local", "docker", "ssh", "alpha", "zeta")


def test_names_import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _entry_points(monkeypatch, mine="no.such.module:Backend")
    assert registry.names() == ("mine",)
    registry.check_name("mine")


def test_only_the_named_backend_is_imported() -> None:
    code = (
        "import sys; from pytest_benchscale.backends import registry; registry.names();"
        "assert not [m for m in sys.modules if m.startswith('pytest_benchscale.backends.local')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    _add("docker")
    with pytest.raises(
        BackendUnavailable, match=r"did you mean 'docker'\?[\s\S]*use one of docker"
    ):
        registry.get("doker")


def test_a_backend_that_nothing_brings_says_what_there_is() -> None:
    _add("one")
    _add("two")
    with pytest.raises(BackendUnavailable, match="use one of one, two, or install the package"):
        registry.get("zebra")


def test_an_entry_point_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _entry_points(monkeypatch, docker="no_such_sdk:Backend", mine="os:NoSuchName")
    with pytest.raises(
        BackendUnavailable, match=r"No module named 'no_such_sdk'[\s\S]*pytest-benchscale\[docker\]"
    ):
        registry.get("docker")
    with pytest.raises(BackendUnavailable, match=r"NoSuchName[\s\S]*package that brings 'mine'"):
        registry.get("mine")


def test_an_entry_point_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    _entry_points(monkeypatch, fake="tests.fake_backend:FakeBackend")
    assert registry.get("fake").name == "fake"


async def test_auto_is_the_cheapest_usable_backend() -> None:
    docker = _add("docker")
    local = _add("local")
    choice = await registry.choose(_topology(), {})
    assert choice.name == "local"
    assert "cheapest" in choice.why
    assert local.journal == ["probe", "close"]
    assert not docker.journal


async def test_auto_passes_over_what_cannot_run_the_topology_and_says_why() -> None:
    local, docker = _add("local"), _add("docker")
    local.reasons = ["node 'a': cloud_init needs a machine of its own"]
    docker.fail("probe", BackendUnavailable("docker", "no daemon", resolution="start it"))
    _add("ssh")
    choice = await registry.choose(_topology(), {})
    assert choice.name == "ssh"
    assert "not local: it cannot run this topology: node 'a': cloud_init" in choice.why
    assert "not docker: no daemon (start it)" in choice.why
    assert docker.journal == ["probe", "close"]


async def test_auto_looks_at_capabilities() -> None:
    _add("local")
    registry.register(
        "docker", make_backend(Script(), "docker", frozenset({Capability.PUBLISHED_PORTS}))
    )
    nodes = [{"name": "a", "ports": ["80:80"]}]
    assert (await registry.choose(_topology(nodes=nodes), {})).name == "docker"


async def test_auto_without_a_usable_backend_lists_each_with_its_reason() -> None:
    _add("local").reasons = ["it is too blue"]
    _add("docker").fail("probe", BackendUnavailable("docker", "no daemon"))
    with pytest.raises(BackendUnavailable) as caught:
        await registry.choose(_topology(), {})
    text = str(caught.value)
    assert "local: it cannot run this topology: it is too blue" in text
    assert "docker: no daemon" in text
    assert "What to do" in text


async def test_a_named_backend_is_taken_as_it_is() -> None:
    script = _add("two")
    assert (await registry.resolve(_topology(), "two", {})).name == "two"
    assert not script.journal
    with pytest.raises(BackendUnavailable, match="no backend of that name"):
        await registry.resolve(_topology(), "none", {})


@pytest.mark.parametrize("wanted", ["auto", "one", "two"])
async def test_what_all_nodes_ask_for_wins(wanted: str) -> None:
    _add("one")
    _add("two")
    topology = _topology(nodes=[{"name": "a", "backend": "two"}])
    assert (await registry.resolve(topology, wanted, {})).name == "two"


async def test_what_some_nodes_ask_for_cannot_be_mixed_with_another() -> None:
    _add("one")
    _add("two")
    topology = _topology(nodes=[{"name": "a"}, {"name": "b", "backend": "two"}])
    assert (await registry.resolve(topology, "auto", {})).name == "two"
    assert (await registry.resolve(topology, "two", {})).name == "two"
    with pytest.raises(LabError, match="cannot be mixed yet: one and two"):
        await registry.resolve(topology, "one", {})


async def test_nodes_that_ask_for_several_cannot_be_run() -> None:
    _add("one")
    _add("two")
    nodes = [{"name": "a", "backend": "one"}, {"name": "b", "backend": "two"}]
    with pytest.raises(LabError, match="cannot be mixed yet"):
        await registry.choose(_topology(nodes=nodes), {})
