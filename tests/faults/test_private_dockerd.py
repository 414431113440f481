"""The daemon that fault tests have to themselves does what they need, and leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale import Lab, Topology
from tests.daemons.endpoints import Unreachable, connection
from tests.daemons.images import reference
from tests.daemons.private import PrivateDockerd, private_dockerd


@pytest.fixture(scope="module")
def dockerd() -> Iterator[PrivateDockerd]:
    with private_dockerd() as daemon:
        yield daemon


def namespace(kind: str, pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def processes_in(namespaces: set[str]) -> list[str]:
    """Return the names of the processes that are in one of these namespaces, as far as can be seen."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if {namespace("net", path.name), namespace("mnt", path.name)} & namespaces:
                found.append((path / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def run_container(dockerd: PrivateDockerd) -> tuple[str, str]:
    """Run a container; return its id and its network namespace."""
    with connection(dockerd.host) as client:
        container = client.containers.run(reference("debian"), init=True, detach=True)
        container.reload()
        return str(container.id), namespace("net", container.attrs["State"]["Pid"])


def test_it_is_apart_from_the_machine_and_runs_containers(dockerd: PrivateDockerd) -> None:
    assert namespace("net", dockerd.pid) != namespace("net", "self")
    assert namespace("mnt", dockerd.pid) != namespace("mnt", "self")
    with connection(dockerd.host) as client:
        output = client.containers.run(reference("debian"), ["hostname", "-I"], remove=True)
        assert output.startswith(b"172.")


def test_while_it_is_frozen_it_does_not_answer(dockerd: PrivateDockerd) -> None:
    dockerd.freeze()
    with pytest.raises(Unreachable), connection(dockerd.host, timeout=0.5):
        pass
    dockerd.thaw()
    with connection(dockerd.host) as client:
        assert client.ping()


def test_killed_it_leaves_its_containers_and_can_be_started_again(dockerd: PrivateDockerd) -> None:
    name, inside = run_container(dockerd)
    dockerd.kill()
    assert not dockerd.running
    assert "sleep" in processes_in({inside})
    with pytest.raises(Unreachable), connection(dockerd.host):
        pass
    dockerd.start()
    with connection(dockerd.host) as client:
        assert client.containers.get(name).status == "exited"


def test_stopped_it_stops_its_containers(dockerd: PrivateDockerd) -> None:
    _, inside = run_container(dockerd)
    dockerd.stop()
    assert processes_in({inside}) == []
    dockerd.start()


async def test_elsewhere_all_links_are_the_daemons_own(
    dockerd: PrivateDockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    image = reference("debian")
    topology = Topology.from_dict({"nodes": [{"name": name, "image": image} for name in "ab"]})
    async with Lab.open(topology, backend="docker") as lab:
        with connection(dockerd.host) as client:
            known = client.containers.list(filters={"label": f"benchscale.lab={lab.lab_id}"})
            assert len(known) == 2
            assert not any(one.attrs["Config"].get("NetworkDisabled") for one in known)
        assert await lab.reachability() == {"a": ["b"], "b": ["a"]}


@pytest.mark.parametrize("state", ["as it is", "frozen", "killed"])
def test_of_it_nothing_is_left(state: str) -> None:
    with private_dockerd() as dockerd:
        directory = Path(dockerd.host.removeprefix("unix://")).parent
        with connection(dockerd.host) as client:
            container = client.containers.run(reference("debian"), detach=True)
            container.reload()
            inside = container.attrs["State"]["Pid"]
        spaces = {namespace(kind, pid) for kind in ("net", "mnt") for pid in (dockerd.pid, inside)}
        there = processes_in(spaces)
        assert {"dockerd", "containerd", "sleep"} <= set(there)
        assert any(name.startswith("containerd-shim") for name in there)
        if state == "frozen":
            dockerd.freeze()
        elif state == "killed":
            dockerd.kill()
    assert processes_in(spaces) == []
    assert not directory.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{directory.name}"))
    assert directory.name not in Path("/proc/self/mountinfo").read_text()
