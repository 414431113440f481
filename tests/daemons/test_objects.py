"""What the count at the end of a run sees: everything, labelled or not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.daemons import objects
from tests.daemons.endpoints import connection
from tests.daemons.images import reference
from tests.daemons.private import private_dockerd

LABEL = "benchscale.pid"


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    with private_dockerd(images=["bare"]) as dockerd:
        yield {"docker": dockerd.host}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(objects.OWN, "docker")


@pytest.fixture
def among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(objects.OWN, raising=False)
    monkeypatch.delenv("CI", raising=False)


@pytest.mark.usefixtures("alone")
def test_everything_that_is_new_is_named_also_without_a_label(addresses: dict[str, str]) -> None:
    before = objects.everything(addresses)
    with connection(addresses["docker"]) as client:
        container = client.containers.create(reference("bare"), name="forgotten")
        network = client.networks.create("mesh")
        volume = client.volumes.create("data")
        client.images.get(reference("bare")).tag("another", "name")
        left = objects.wait_until_as_before(before, addresses, seconds=0)
        assert [line.rpartition(" ")[0] for line in left] == [
            "docker: container /forgotten",
            "docker: image another:name",
            "docker: network mesh",
            "docker: volume data",
        ]
        container.remove()
        network.remove()
        volume.remove()
        client.images.remove("another:name")
    assert objects.wait_until_as_before(before, addresses) == []


@pytest.mark.usefixtures("among_others")
@pytest.mark.parametrize(
    ("owner", "counts"),
    [(os.getpid(), True), (os.getppid(), False), (1 << 22, True), (None, False)],
)
def test_among_others_only_what_may_be_ours_counts(
    addresses: dict[str, str], owner: int | None, counts: bool
) -> None:
    before = objects.everything(addresses)
    labels = {} if owner is None else {LABEL: str(owner)}
    with connection(addresses["docker"]) as client:
        network = client.networks.create("mesh", labels=labels)
        left = objects.wait_until_as_before(before, addresses, seconds=0)
        network.remove()
    assert [line.rpartition(" ")[0] for line in left] == ["docker: network mesh"] * counts


def test_where_no_daemon_answers_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    monkeypatch.setenv("CONTAINER_HOST", "unix:///nonexistent/podman.sock")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///system?socket=/nonexistent/libvirt-sock")
    assert objects.reachable() == {}
    assert objects.everything({}) == frozenset()
