"""Sessions that are killed at random moments, and everything that may be left of them, counted.

    python -m tests.faults.killing BACKEND KILLS [SEED]

Foreign objects with confusingly similar names and labels are made beforehand, and must be as they were at
the end. What is counted belongs to the session that was killed: its processes carry a mark in their
environment, what it has at a daemon carries its number in a label. With CI set, or on daemons of one's own,
whatever is new on the machine counts.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_benchscale.backends.libvirt.naming import lab_of_volume
from tests.daemons import objects, virtual
from tests.daemons.endpoints import connection, find
from tests.daemons.guests import boot_reference
from tests.daemons.images import reference
from tests.daemons.needs import LIBVIRT
from tests.faults.sessions import ROOT_OF_PROJECT, start
from tests.machine import Snapshot, difference

__all__ = ["PHASES", "Figures", "kill_sessions", "processes_marked"]

PHASES = ("create", "setup", "test", "teardown")
PATIENCE = 60.0
"""Seconds after which what is there is left; how long it took is told, too, and depends on what else runs."""

_MARK = "BENCHSCALE_KILLED"
_SETUP = 0.4  # seconds that the nodes' set-up takes
_TEST = 0.6
_MOST = 300.0  # for a session that nobody kills
_MOST_MISSED = 10  # times as many as are killed
_CONTAINERS = ("docker", "podman")

_TOPOLOGY = """
metadata: {{name: pair}}
networks: [{{name: lan}}, {{name: wan}}]
nodes:
  - {{name: one, image: {image}, setup: ["sleep {setup}"]}}
  - {{name: two, image: {image}, setup: ["sleep {setup}"]}}
  - {{name: three, image: {image}, networks: [wan], setup: ["sleep {setup}"]}}
"""
_SESSION = """
import time
import pytest

@pytest.mark.topology("pair.yaml", reset={reset})
@pytest.mark.parametrize("number", range({tests}))
def test_it(lab, number):
    print("TEST", flush=True)
    for node in lab.sync.nodes.values():
        node.exec("sleep 1000 & (setsid sleep 1000 &) mkdir -p /tmp/d")
    time.sleep({test} / {tests})
    if number == {tests} - 1:
        print("TEARDOWN", flush=True)
"""
_CONFTEST = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    from pytest_benchscale.lab.owner import owner_labels
    print("RUN", owner_labels()["benchscale.run"], "CREATE", flush=True)
"""


@dataclass
class Figures:
    """What came of it."""

    backend: str
    kills: Counter[str] = field(default_factory=Counter)
    missed: int = 0  # sessions that ended by themselves before that
    seconds: list[float] = field(default_factory=list)  # until nothing was left
    left: list[str] = field(default_factory=list)
    harmed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        phases = ", ".join(f"{self.kills[phase]} in {phase}" for phase in PHASES)
        times = sorted(self.seconds) or [0.0]
        return (
            f"{self.backend}: {self.kills.total()} kills ({phases}); left: {len(self.left)}; "
            f"foreign objects harmed: {len(self.harmed)}; nothing left after "
            f"{times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s (longest); "
            f"{self.missed} more had ended before they could be killed"
        )


def kill_sessions(
    backend: str,
    kills: int,
    seed: int,
    *,
    phases: Sequence[str] = PHASES,
    within: Mapping[str, float] | None = None,
) -> Figures:
    """Kill so many sessions, in each of the phases in turn, and count after each what is left.

    `within` says for each phase how many seconds from its beginning on they are killed; without it, as many
    as it lasts in a session that nobody kills, and that is not the first: machines that were ready once are
    sooner ready again. Only a session that was there to be killed counts.

    Raises:
        AssertionError: many times more sessions end before that.
    """
    figures, chance = Figures(backend), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="killing-") as name, ExitStack() as ends:
        place = Path(name)
        _write(place, backend)
        foreign = ends.enter_context(_foreigners(backend, place))
        lasted = within or [_Session(place, backend).lasted() for _ in range(2)][-1]
        print(f"seed {seed}; " + ", ".join(f"{k} {v:.2f} s" for k, v in lasted.items()), flush=True)
        while (number := figures.kills.total()) < kills:
            assert figures.missed <= _MOST_MISSED * kills, str(figures)
            phase = phases[number % len(phases)]
            session = _Session(place, backend)
            pause = chance.uniform(0.0, lasted[phase])
            was_there = session.kill(phase, pause, lasted)
            began = time.monotonic()
            left = session.wait_until_gone(PATIENCE)
            if was_there:
                figures.kills[phase] += 1
                figures.seconds.append(time.monotonic() - began)
                print(
                    f"{number + 1}: {phase} + {pause:.3f} s: {figures.seconds[-1]:.2f} s",
                    flush=True,
                )
            else:
                figures.missed += 1
            if left:
                figures.left += [f"{phase} + {pause:.3f} s: {thing}" for thing in left]
                print("\n".join(figures.left[-len(left) :]), flush=True)
        figures.harmed = [name for name, is_there in foreign.items() if not is_there()]
    return figures


def _write(place: Path, backend: str) -> None:
    image = None
    if backend in _CONTAINERS:
        image = reference("debian")
    elif backend == LIBVIRT:
        image = boot_reference()
    topology = _TOPOLOGY.format(image=json.dumps(image), setup=_SETUP)
    (place / "pair.yaml").write_text(topology)
    # To remember a machine takes longer than all the rest.
    tests, reset = (1, None) if backend == LIBVIRT else (2, "test")
    session = _SESSION.format(test=_TEST, tests=tests, reset=repr(reset))
    (place / "test_it.py").write_text(session)
    (place / "conftest.py").write_text(_CONFTEST)
    (place / "state").mkdir()
    (place / "tmp").mkdir()


class _Session:
    """A run of pytest with one lab, of which everything is told by a mark of its own."""

    def __init__(self, place: Path, backend: str) -> None:
        self._place, self._backend = place, backend
        self._mark = uuid.uuid4().hex
        self._addresses: Mapping[str, str] = {}
        if backend in _CONTAINERS:
            self._addresses = {backend: find(backend)}
        elif backend == LIBVIRT:
            self._addresses = {backend: virtual.find()}
        self._alone = bool(os.environ.get("CI")) or bool(os.environ.get("BENCHSCALE_ALONE"))
        self._machine = Snapshot.take()
        self._things = objects.everything(self._addresses)
        self._files = _files(place)
        keep = ("DOCKER_", "CONTAINER", "LIBVIRT_", "XDG_RUNTIME")
        environment = {k: v for k, v in os.environ.items() if k.startswith(keep)}
        argv = ["-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", "."]
        self.process = start(
            [*argv, f"--benchscale-backend={backend}"],
            cwd=place,
            env={
                **environment,
                _MARK: self._mark,
                "BENCHSCALE_STATE_DIR": str(place / "state"),
                "TMPDIR": str(place / "tmp"),
            },
        )
        self._output = ""

    def _wait_for(self, word: str) -> bool:
        """Read on until it says something; False: it ended before."""
        assert self.process.stdout is not None
        while word not in self._output:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return False
            self._output += data.decode()
        return True

    def lasted(self) -> dict[str, float]:
        """Let it run to its end; return how long each phase took, in seconds."""
        times = []
        for word in ("CREATE", "TEST", "TEARDOWN"):
            assert self._wait_for(word), self._output
            times.append(time.monotonic())
        rest, _ = self.process.communicate(timeout=_MOST)
        times.append(time.monotonic())
        assert self.process.returncode == 0, self._output + rest
        left = self.wait_until_gone(PATIENCE)
        assert not left, left
        create, test, teardown = (b - a for a, b in itertools.pairwise(times))
        return {
            "create": create - _SETUP,
            "setup": _SETUP,
            "test": test,
            "teardown": teardown,
        }

    def kill(self, phase: str, pause: float, lasted: Mapping[str, float]) -> bool:
        """Kill it so long after the beginning of a phase; return whether it was there to be killed."""
        words = {"create": "CREATE", "setup": "CREATE", "test": "TEST", "teardown": "TEARDOWN"}
        if self._wait_for(words[phase]):
            time.sleep(pause + (lasted["create"] if phase == "setup" else 0.0))
        self.process.kill()
        self.process.communicate()
        return self.process.returncode == -signal.SIGKILL

    def wait_until_gone(self, seconds: float) -> list[str]:
        """Return what is left of it after so long; as soon as that is nothing."""
        deadline = time.monotonic() + seconds
        while True:
            left = self._left()
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

    def _left(self) -> list[str]:
        left = [f"process {words}" for words in processes_marked(f"{_MARK}={self._mark}")]
        left += [f"file {name}" for name in sorted(_files(self._place) - self._files)]
        left += self._of_libvirt()
        if self._alone:
            for kind, lines in difference(self._machine, Snapshot.take()).items():
                left += [f"{kind}: {line}" for line in lines]
        for thing in objects.everything(self._addresses) - self._things:
            if self._alone or self._owns(thing):
                left.append(str(thing))
        return left

    def _of_libvirt(self) -> list[str]:
        """Return what the run has at libvirt; its volumes have no labels, but its number in their names."""
        run = re.search(r"RUN ([0-9a-f]{32})", self._output)
        if self._backend != LIBVIRT or run is None:
            return []
        found = []
        with virtual.connection(self._addresses[LIBVIRT]) as libvirtd:
            found += [
                f"{type(thing).__name__} {thing.name()}"
                for thing in (*libvirtd.listAllDomains(), *libvirtd.listAllNetworks())
                if run[1] in (virtual.description(thing) or "")
            ]
            for pool in libvirtd.listAllStoragePools():
                found += [
                    f"volume {volume.name()}"
                    for volume in pool.listAllVolumes()
                    if lab_of_volume(volume.name(), run[1]) is not None
                ]
        return found

    def _owns(self, thing: objects.Thing) -> bool:
        if thing.daemon == LIBVIRT:
            return False  # see `_of_libvirt`
        with connection(self._addresses[thing.daemon]) as client:
            labels = _labels(client.api, thing)
        return labels.get("benchscale.pid") == str(self.process.pid)


def _labels(api: Any, thing: objects.Thing) -> Mapping[str, str]:
    with suppress(Exception):  # it has just gone
        if thing.kind == "container":
            return dict(api.inspect_container(thing.id)["Config"]["Labels"] or {})
        if thing.kind == "network":
            return dict(api.inspect_network(thing.id)["Labels"] or {})
        if thing.kind == "volume":
            return dict(api.inspect_volume(thing.id)["Labels"] or {})
        return dict(api.inspect_image(thing.id)["Config"]["Labels"] or {})
    return {}


def _files(place: Path) -> frozenset[str]:
    """Return the files of its own temporary and state directory; these themselves may stay."""
    standing = {place / "state" / name for name in ("labs", "logs")}
    # A walk, since a glob does not bear that something goes meanwhile.
    walks = itertools.chain(os.walk(place / "state"), os.walk(place / "tmp"))
    found = (Path(at, name) for at, *names in walks for name in itertools.chain(*names))
    return frozenset(str(path) for path in found if path not in standing)


def processes_marked(mark: str) -> Iterator[str]:
    """Go through the processes that have a mark in their environment."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (path / "environ").read_bytes():
                continue
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended
            continue
        if state != "Z":
            yield f"{path.name} {words[:100]}"


@contextmanager
def _foreigners(backend: str, place: Path) -> Iterator[dict[str, Any]]:
    """Make things that look like ours; return by name whether each is still as it was."""
    still: dict[str, Any] = {}
    with ExitStack() as ends:
        name = f"benchscale-{uuid.uuid4().hex[:8]}"
        directory = Path(tempfile.mkdtemp(prefix=name))
        ends.callback(directory.rmdir)
        still[f"directory {directory}"] = directory.is_dir
        other = place / "state" / "labs" / "0badcafe"
        other.mkdir(parents=True)
        (other / "record").write_text("this is no record\n")
        still["a record that cannot be read"] = (other / "record").is_file
        sleeper = subprocess.Popen(["benchscale-init", "1000"], executable="/bin/sleep")
        ends.callback(_end, sleeper)
        still["process benchscale-init"] = lambda: sleeper.poll() is None
        if backend in _CONTAINERS:
            still.update(ends.enter_context(_foreign_containers(backend, name)))
        if backend == LIBVIRT:
            still.update(ends.enter_context(_foreign_machines(name)))
        yield still


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def _foreign_containers(backend: str, name: str) -> Iterator[dict[str, Any]]:
    """Make a container, a network and a volume named as ours are, some with labels of ours."""
    labels = {
        "benchscale.run": uuid.uuid4().hex,
        "benchscale.lab": uuid.uuid4().hex[:8],
        "benchscale.pid": "1",  # which lives, and is nobody's pytest
        "benchscale.node": "one",
        "benchscale.network": "lan",
    }
    with connection(find(backend)) as client, ExitStack() as ends:
        api = client.api
        still: dict[str, Any] = {}
        for kind, dressed in (("plain", {}), ("labelled", labels)):
            container = api.create_container(
                reference("debian"), ["true"], name=f"{name}-{kind}-one", labels=dressed
            )["Id"]
            ends.callback(api.remove_container, container, v=True, force=True)
            still[f"container {kind}"] = lambda one=container: bool(api.inspect_container(one))
            network = api.create_network(f"{name}-{kind}-lan", labels=dressed, internal=True)["Id"]
            ends.callback(api.remove_network, network)
            still[f"network {kind}"] = lambda one=network: bool(api.inspect_network(one))
            volume = api.create_volume(f"{name}-{kind}", labels=dressed)["Name"]
            ends.callback(api.remove_volume, volume)
            still[f"volume {kind}"] = lambda one=volume: bool(api.inspect_volume(one))
        yield {what: _answers(check) for what, check in still.items()}


@contextmanager
def _foreign_machines(name: str) -> Iterator[dict[str, Any]]:
    """Define a domain and a network named as ours are; neither runs."""
    machine = "<memory>1024</memory><os><type>hvm</type></os>"
    domain = f"<domain type='qemu'><name>{name}-one</name>{machine}</domain>"
    network = f"<network><name>{name}-lan</name></network>"
    with virtual.connection(virtual.find()) as libvirtd:
        made = [libvirtd.defineXML(domain), libvirtd.networkDefineXML(network)]
        try:
            yield {
                "domain": _answers(lambda: bool(libvirtd.lookupByName(f"{name}-one"))),
                "network": _answers(lambda: bool(libvirtd.networkLookupByName(f"{name}-lan"))),
            }
        finally:
            for thing in made:
                thing.undefine()


def _answers(check: Any) -> Any:
    def answer() -> bool:
        try:
            return bool(check())
        except Exception as error:  # noqa: BLE001  whatever it is, the thing is not as it was
            print(f"{type(error).__name__}: {error}", flush=True)
            return False

    return answer


def main(arguments: Sequence[str]) -> int:
    """Kill sessions of a backend; return 1 when something was left or harmed."""
    backend, kills = arguments[0], int(arguments[1])
    seed = int(arguments[2]) if len(arguments) > 2 else random.SystemRandom().randrange(10**6)
    phases = tuple(os.environ.get("BENCHSCALE_KILLING_PHASES", ",".join(PHASES)).split(","))
    os.chdir(ROOT_OF_PROJECT)
    figures = kill_sessions(backend, kills, seed, phases=phases)
    print(re.sub(r"\s+", " ", str(figures)), flush=True)
    for line in [*figures.left, *figures.harmed]:
        print(f"  {line}", flush=True)
    return int(bool(figures.left or figures.harmed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
