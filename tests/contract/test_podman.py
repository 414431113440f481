"""The contract, on Podman over its Docker-compatible service, and where that service comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_benchscale.backends import podman
from pytest_benchscale.errors import BackendUnavailable, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.testing import BackendContract
from pytest_benchscale.testing.networks import CAMPUS
from tests.daemons.images import reference
from tests.daemons.needs import skip_or_fail
from tests.machine import processes_that


@pytest.mark.daemon("podman")
class TestPodman(BackendContract):
    backend = "podman"
    image = reference("debian")


def rules_of(lab_id: str, table: str) -> list[str]:
    """Return the rules in a table of this machine's firewall that are a lab's."""
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        return []
    command = ["iptables", "-w", "-t", table, "-S"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return [rule for rule in listing.stdout.splitlines() if f"benchscale-{lab_id}" in rule]


@pytest.mark.daemon("podman")
@pytest.mark.parametrize(
    ("topology", "tables"),
    [(CAMPUS, {"filter", "nat"}), ("{nodes: [{name: a}, {name: b}]}", {"filter"})],
    ids=["with a router", "without"],
)
async def test_rules_that_let_packets_pass_go_with_their_lab(topology, tables):
    wanted = tables if os.geteuid() == 0 and podman.filters_bridges() else set()
    async with Lab.open(TestPodman.topology(topology), backend="podman") as lab:
        assert lab.lab_id is not None
        assert {table for table in ("filter", "nat") if rules_of(lab.lab_id, table)} == wanted
    assert not any(rules_of(lab.lab_id, table) for table in ("filter", "nat"))


@pytest.mark.daemon("podman")
async def test_where_no_rule_may_be_made_podman_makes_its_own(monkeypatch):
    monkeypatch.setattr(podman, "can_exempt", lambda: False)
    async with Lab.open(
        TestPodman.topology("{nodes: [{name: a}, {name: b}]}"), backend="podman"
    ) as lab:
        assert lab.lab_id is not None
        assert not rules_of(lab.lab_id, "filter")
        assert await lab.reachability() == {"a": ["b"], "b": ["a"]}


@pytest.mark.daemon("podman")
@pytest.mark.skipif(
    not podman.filters_bridges(), reason="no packet of a bridge passes the firewall"
)
async def test_routers_are_refused_where_the_firewall_would_break_them(monkeypatch):
    monkeypatch.setattr(podman, "can_exempt", lambda: False)
    with pytest.raises(NotSupported, match="routers") as caught:
        async with Lab.open(TestPodman.topology(CAMPUS), backend="podman"):
            pass
    assert "sysctl net.bridge.bridge-nf-call-iptables=0" in str(caught.value.resolution)


@pytest.fixture
def _no_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have nothing answer, so that a service has to be started."""
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setattr(podman, "find_podman", lambda: None)


def services() -> set[str]:
    """Return the processes that serve on a socket of ours."""
    return processes_that(
        lambda words: any(b"/benchscale-" in word and b"podman.sock" in word for word in words)
    )


@pytest.mark.usefixtures("_no_service")
async def test_a_service_is_started_shared_and_stopped_when_none_answers():
    if not shutil.which("podman"):
        skip_or_fail("podman is not installed")
    before = services()
    one, other = podman.PodmanBackend(), podman.PodmanBackend()
    assert "API" in await one.probe()
    started = services() - before
    assert started
    await other.probe()
    assert services() - before == started
    await one.close()
    assert services() - before == started
    assert "API" in await other.probe()
    await other.close()
    assert services() == before
    await other.close()


@pytest.mark.usefixtures("_no_service")
async def test_without_podman_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="`podman` is not installed") as caught:
        await podman.PodmanBackend().probe()
    assert "apt-get install podman" in str(caught.value.resolution)


async def test_a_container_host_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/gone.sock")
    with pytest.raises(BackendUnavailable, match=r"gone\.sock \(CONTAINER_HOST\)") as caught:
        await podman.PodmanBackend().probe()
    assert "podman.socket" in str(caught.value.resolution)


@pytest.mark.usefixtures("_no_service")
async def test_an_ordinary_user_runs_a_lab_without_root():
    if os.geteuid() == 0:
        pytest.skip("this is root: run the tests as an ordinary user to see a rootless Podman")
    if not (shutil.which("podman") and shutil.which("newuidmap")):
        pytest.skip("podman or newuidmap (package uidmap) is not installed")
    backend = podman.PodmanBackend()
    assert "API" in await backend.probe()
    await backend.close()
