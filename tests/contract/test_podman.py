"""The contract, on Podman over its Docker-compatible service, and where that service comes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.backends import podman
from pytest_benchscale.errors import BackendUnavailable, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.testing import BackendContract
from pytest_benchscale.testing.networks import CAMPUS
from tests.daemons.images import reference
from tests.daemons.needs import skip_or_fail

NO_ROUTERS = "routed packets do not pass: this machine's firewall sees what passes a bridge"


def refuses_routers() -> bool:
    return os.geteuid() == 0 and podman.filters_bridges()


@pytest.mark.daemon("podman")
class TestPodman(BackendContract):
    backend = "podman"
    image = reference("debian")
    known_failures = (
        dict.fromkeys(
            (
                "test_names_resolve_through_a_router",
                "test_a_router_forwards_between_its_networks",
                "test_nodes_reach_their_router",
                "test_an_address_that_the_file_gives_is_the_address",
            ),
            NO_ROUTERS,
        )
        if refuses_routers()
        else {}
    )

    @pytest.fixture(scope="class")
    @classmethod
    def campus(cls, _backend_under_test: None) -> Iterator[Lab]:
        text = CAMPUS.partition("  - name: router")[0] if refuses_routers() else CAMPUS
        with cls.open(text) as lab:
            yield lab


@pytest.mark.daemon("podman")
@pytest.mark.skipif(
    not refuses_routers(), reason="packets of bridges do not pass the firewall here"
)
async def test_routers_are_refused_where_the_firewall_would_break_them():
    topology = TestPodman.topology(CAMPUS)
    with pytest.raises(NotSupported, match="routers") as caught:
        async with Lab.open(topology, backend="podman"):
            pass
    assert "sysctl net.bridge.bridge-nf-call-iptables=0" in str(caught.value.resolution)


@pytest.fixture
def _no_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have nothing answer, so that a service has to be started."""
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setattr(podman, "find_podman", lambda: None)


def services() -> set[str]:
    """Return the processes that serve on a socket of ours."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if any(b"/benchscale-" in word and b"podman.sock" in word for word in words):
            found.add(path.parent.name)
    return found


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
