"""What `benchscale gc` removes at real daemons, and above all what it does not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.backends.podman_firewall import Exemptions, can_exempt, labs_with_rules
from pytest_benchscale.cli import main
from pytest_benchscale.lab.ledger import Entry, Ledger
from pytest_benchscale.lab.owner import since_boot
from pytest_benchscale.lab.record import Kept, LabRecord
from tests.daemons.endpoints import connection, find
from tests.daemons.images import reference

VARIABLES = {"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}
GC = [sys.executable, "-c", "import sys; from pytest_benchscale.cli import main; sys.exit(main())"]


class Wreck:
    """A lab as a killed session leaves it: a record that nobody holds, and things at a daemon."""

    def __init__(self, backend: str, client: Any) -> None:
        self.backend, self.client = backend, client
        self.lab_id, self.run = os.urandom(4).hex(), os.urandom(16).hex()
        self.labels = {"benchscale.run": self.run, "benchscale.lab": self.lab_id}
        self._made: list[Any] = []

    def write_down(self, host: str | None = None, kept_for: float | None = None) -> Entry:
        """Enter it into the ledger and let go of it."""
        variable = VARIABLES[self.backend]
        record = LabRecord(
            lab_id=self.lab_id,
            name="wreck",
            backend=self.backend,
            labels={**self.labels, "benchscale.pid": "1"},
            place={variable: host or find(self.backend)},
            subnets={},
            nodes=("one",),
            declared={},
            source=None,
            created=time.time(),
            booted=since_boot(),
        )
        entry = Ledger().enter(record)
        if kept_for is not None:
            until = time.time() + kept_for
            kept = Kept({}, {}, until=until, until_booted=since_boot() + kept_for)
            entry.note("kept", **kept.to_json())
        return entry

    def container(self, name: str, labels: dict[str, str], **options: Any) -> Any:
        image = reference("debian")
        made = self.client.containers.create(
            image, ["sleep", "600"], name=name, labels=labels, **options
        )
        self._made.append(made)
        return made

    def network(self, name: str, labels: dict[str, str]) -> Any:
        made = self.client.networks.create(name, labels=labels)
        self._made.append(made)
        return made

    def volume(self, name: str, labels: dict[str, str]) -> Any:
        made = self.client.volumes.create(name, labels=labels)
        self._made.append(made)
        return made

    def there(self) -> set[str]:
        """Return the names of what was made here and is still there."""
        names = set()
        for thing in self._made:
            try:
                thing.reload()
            except Exception as error:
                if getattr(error, "status_code", None) != 404:
                    raise
            else:
                names.add(thing.name)
        return names

    def clear(self) -> None:
        for thing in self._made:
            try:
                thing.remove(**({"force": True} if hasattr(thing, "exec_run") else {}))
            except Exception as error:
                if getattr(error, "status_code", None) != 404:
                    raise


@pytest.fixture(
    params=[
        pytest.param("docker", marks=pytest.mark.daemon("docker")),
        pytest.param("podman", marks=pytest.mark.daemon("podman")),
    ]
)
def wreck(request: pytest.FixtureRequest, own_ledger: Path) -> Iterator[Wreck]:
    yield from _wreck(request.param)


@pytest.fixture
def docker_wreck(own_ledger: Path) -> Iterator[Wreck]:
    yield from _wreck("docker")


def _wreck(backend: str) -> Iterator[Wreck]:
    with connection(find(backend)) as client:
        made = Wreck(backend, client)
        try:
            yield made
        finally:
            made.clear()


@pytest.fixture
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path))
    return tmp_path


def test_only_what_ledger_and_both_labels_prove_is_removed(
    wreck: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, run = wreck.lab_id, wreck.run
    foreign = {
        "none": {},
        "lab": {"benchscale.lab": lab},
        "run": {"benchscale.run": run},
        "otherlab": {"benchscale.run": run, "benchscale.lab": f"{lab}0"},
        "otherrun": {"benchscale.run": f"{run}0", "benchscale.lab": lab},
        "prefix": {"benchscale.run": run[:-1], "benchscale.lab": lab},
        "case": {"Benchscale.run": run, "benchscale.Lab": lab},
    }
    stays = {f"benchscale-{lab}-{name}" for name in foreign}
    for name, labels in foreign.items():
        wreck.container(f"benchscale-{lab}-{name}", labels)
    for name, labels in (("none", {}), ("otherrun", foreign["otherrun"])):
        wreck.network(f"benchscale-{lab}-net-{name}", labels)
        wreck.volume(f"benchscale-{lab}-volume-{name}", labels)
        stays |= {f"benchscale-{lab}-net-{name}", f"benchscale-{lab}-volume-{name}"}
    network = wreck.network(f"lan-{lab}", wreck.labels)
    running = wreck.container(f"one-{lab}", wreck.labels, network=network.name)
    running.start()
    frozen = wreck.container(f"two-{lab}", wreck.labels)
    frozen.start()
    frozen.pause()
    wreck.container(f"three-{lab}", wreck.labels)
    entry = wreck.write_down()

    entry.let_go()
    before = wreck.there()
    assert main(["gc"]) == 0
    shown = capsys.readouterr().out
    assert f"would remove: lab {lab} (wreck, {wreck.backend}): left behind by process 1" in shown
    assert f"    container {running.id[:12]}" in shown
    assert f"left alone: lab {lab}0 ({wreck.backend}): not in this ledger: container" in shown
    assert wreck.there() == before

    assert main(["gc", "--yes", "--json"]) == 0
    (garbage,) = json.loads(capsys.readouterr().out)["garbage"]
    assert garbage["removed"]
    assert sorted(thing["kind"] for thing in garbage["things"]) == ["container"] * 3 + ["network"]
    assert wreck.there() == stays
    assert list(Ledger().labs()) == []


def test_images_of_the_lab_go_and_those_made_of_its_nodes_stay(wreck: Wreck) -> None:
    node = wreck.container(f"one-{wreck.lab_id}", wreck.labels)
    node.commit(repository="benchscale-build", tag=f"{wreck.lab_id}-0123456789ab")
    node.commit(repository=f"mine-{wreck.lab_id}")  # which inherits the labels
    wreck.write_down().let_go()
    try:
        assert main(["gc", "--yes"]) == 0
        tags = [tag for image in wreck.client.images.list() for tag in image.tags]
        (left,) = (tag for tag in tags if wreck.lab_id in tag)
        assert f"mine-{wreck.lab_id}" in left
    finally:
        wreck.client.images.remove(f"mine-{wreck.lab_id}")


@pytest.mark.daemon("docker")
def test_what_a_stranger_still_uses_is_told_and_the_rest_goes(
    docker_wreck: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = docker_wreck.lab_id
    network = docker_wreck.network(f"lan-{lab}", docker_wreck.labels)
    docker_wreck.container(f"one-{lab}", docker_wreck.labels, network=network.name).start()
    guest = docker_wreck.container(f"guest-{lab}", {}, network=network.name)
    guest.start()
    docker_wreck.write_down().let_go()
    assert main(["gc", "--yes"]) == 1
    shown = capsys.readouterr().out
    assert f"NOT removed: lab {lab} (wreck, docker)" in shown
    assert f"guest-{lab} is still on it" in shown
    assert docker_wreck.there() == {f"lan-{lab}", f"guest-{lab}"}
    assert [found.lab_id for found in Ledger().labs()] == [lab]
    guest.remove(force=True)
    assert main(["gc", "--yes"]) == 0
    assert docker_wreck.there() == set()


@pytest.mark.daemon("podman")
@pytest.mark.skipif(not can_exempt(), reason="the firewall cannot be changed here")
def test_rules_of_the_firewall_go_with_their_lab_alone(own_ledger: Path) -> None:
    wreck, other = Wreck("podman", None), Wreck("podman", None)
    subnets = [
        ip_network("10.251.0.0/24"),
        ip_network("10.251.1.0/24"),
        ip_network("fd00:251::/64"),
    ]
    for one in (wreck, other):
        Exemptions(one.lab_id, subnets, routed=True).add()
    try:
        assert labs_with_rules().count(wreck.lab_id) == 3 + 2
        wreck.write_down().let_go()
        assert main(["gc", "--yes"]) == 0
        assert wreck.lab_id not in labs_with_rules()
        assert labs_with_rules().count(other.lab_id) == 3 + 2
    finally:
        for one in (wreck, other):
            Exemptions(one.lab_id, subnets).remove()
    assert other.lab_id not in labs_with_rules()


@pytest.mark.daemon("docker")
def test_what_is_in_use_or_kept_is_left_alone(
    docker_wreck: Wreck, capsys: pytest.CaptureFixture[str]
) -> None:
    docker_wreck.container(f"one-{docker_wreck.lab_id}", docker_wreck.labels)
    entry = docker_wreck.write_down(kept_for=60)
    assert main(["gc", "--yes"]) == 0
    assert "in use by process 1" in capsys.readouterr().out
    entry.let_go()
    assert main(["gc", "--yes"]) == 0
    assert "(wreck, docker): kept until " in capsys.readouterr().out
    assert len(docker_wreck.there()) == 1
    again = Ledger().take(docker_wreck.lab_id)
    assert again is not None
    again.note("kept", **Kept({}, {}, until=time.time(), until_booted=since_boot()).to_json())
    again.let_go()
    assert main(["gc", "--yes"]) == 0
    assert docker_wreck.there() == set()


@pytest.mark.daemon("docker")
def test_daemons_that_are_down_or_hang_hold_up_no_other(
    docker_wreck: Wreck, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One socket is not there, another takes requests and answers none: those labs are kept for later."""
    docker_wreck.container(f"one-{docker_wreck.lab_id}", docker_wreck.labels)
    docker_wreck.write_down().let_go()
    down, hanging = Wreck("docker", None), Wreck("docker", None)
    down.write_down("unix:///nonexistent/docker.sock").let_go()
    hanging.write_down(f"unix://{tmp_path}/hang.sock").let_go()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hang.sock"))
        listener.listen()
        began = time.monotonic()
        assert main(["gc", "--yes"]) == 0
        assert time.monotonic() - began < 60
    shown = capsys.readouterr().out
    assert f"removed: lab {docker_wreck.lab_id}" in shown
    for lab in (down, hanging):
        assert f"left alone: lab {lab.lab_id} (wreck, docker): kept for later: docker (" in shown
    assert docker_wreck.there() == set()
    assert {found.lab_id for found in Ledger().labs()} == {down.lab_id, hanging.lab_id}


@pytest.mark.daemon("docker")
def test_two_at_once_do_it_once(docker_wreck: Wreck) -> None:
    for name in ("one", "two"):
        docker_wreck.container(f"{name}-{docker_wreck.lab_id}", docker_wreck.labels).start()
    docker_wreck.write_down().let_go()
    both = [
        subprocess.Popen([*GC, "gc", "--yes"], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(f"removed: lab {docker_wreck.lab_id}" in output for output in outputs) == 1
    assert docker_wreck.there() == set()
    assert list(Ledger().labs()) == []


@pytest.mark.daemon("docker")
def test_the_reaper_removes_a_lab_whose_locked_record_it_is_given(docker_wreck: Wreck) -> None:
    docker_wreck.container(f"one-{docker_wreck.lab_id}", docker_wreck.labels).start()
    entry = docker_wreck.write_down()
    reaper = [sys.executable, "-m", "pytest_benchscale.lab.reaper", docker_wreck.lab_id]
    alone = subprocess.run(reaper, capture_output=True, text=True, check=False, timeout=60)
    assert (alone.returncode, "left alone" in alone.stdout) == (1, True)
    given = subprocess.run(
        [*reaper, "--fd", str(entry.fileno())],
        pass_fds=[entry.fileno()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (given.returncode, given.stdout) == (0, f"{docker_wreck.lab_id}: removed\n")
    assert docker_wreck.there() == set()
    entry.let_go()
    gone = subprocess.run(reaper, capture_output=True, text=True, check=False, timeout=60)
    assert (gone.returncode, gone.stdout) == (0, "")
