"""`benchscale shell`, as somebody before a terminal has it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.contract.person import Person, at_a_terminal
from tests.daemons.images import reference

ONE = "metadata: {name: shell-test}\nnetwork: {name: lan}\nnodes: [{name: alpha}]\n"
_CLI = "import sys; from pytest_benchscale.cli import main; sys.exit(main(sys.argv[1:]))"
_IN_OPEN_LAB = """
import sys
from contextlib import contextmanager
from pytest_benchscale import Lab
from pytest_benchscale.cli import main
from pytest_benchscale.commands import whereabouts

with Lab.open_sync(sys.argv[1], backend="local") as lab:
    @contextmanager
    def visiting(wanted):
        yield lab
    whereabouts.visiting = visiting
    code = main(sys.argv[2:])
sys.exit(code)
"""
_numbers = itertools.count(20_000_000)


class ShellCommand:
    """The tests, for a lab of one node, alpha."""

    @pytest.fixture
    def command(self) -> list[str]:
        """`benchscale shell`, with the lab."""
        raise NotImplementedError

    @pytest.fixture
    def person(self, command: list[str]) -> Iterator[Person]:
        with at_a_terminal([*command, "alpha"], {}) as person:
            yield person

    def test_it_is_a_terminal_of_our_size_and_kind(self, person: Person) -> None:
        person.has_a_prompt()
        assert "/dev/" in person.enters("tty")
        assert "30 90" in person.enters("stty size")
        assert "xterm" in person.enters("echo $TERM")
        person.resize(44, 111)
        deadline = time.monotonic() + 20
        while "44 111" not in person.enters("stty size"):
            assert time.monotonic() < deadline

    def test_jobs_are_controlled_and_the_exit_code_comes_back(self, person: Person) -> None:
        seconds = str(next(_numbers))
        before = person.settings()
        assert "job control" not in person.has_a_prompt()
        assert person.settings() != before
        person.types(f"sleep {seconds}\r")
        until_counted(seconds, 1)
        person.types("\x03")
        person.reads("ready: ")
        person.types(f"sleep {seconds}\r")
        until_counted(seconds, 1)
        person.types("\x1a")
        assert "Stopped" in person.reads("\n[^\n]*ready: ")
        assert f"sleep {seconds}" in person.enters("bg; jobs")
        person.types("fg\r")
        person.reads(f"fg\r\n[^\n]*sleep {seconds}\r\n")
        time.sleep(0.3)  # for the shell to hand the terminal over: nothing shows that
        person.types("\x03")
        person.reads("ready: ")
        person.types("exit 7\r")
        assert person.is_done() == 7
        assert person.settings() == before
        until_counted(seconds, 0)

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_a_signal_restores_the_terminal_and_leaves_nothing_running(
        self, person: Person, signum: signal.Signals
    ) -> None:
        seconds = str(next(_numbers))
        before = person.settings()
        person.has_a_prompt()
        person.types(f"trap '' HUP; sleep {seconds} & sleep {seconds}\r")
        until_counted(seconds, 2)
        person.process.send_signal(signum)
        assert person.is_done() == 128 + signum
        assert person.settings() == before
        until_counted(seconds, 0)

    def test_a_command_is_run_on_the_terminal(self, command: list[str]) -> None:
        argv = [*command, "alpha", "--", "sh", "-c", "tty && stty size; exit 9"]
        with at_a_terminal(argv, {}) as person:
            assert "/dev/" in person.reads("30 90")
            assert person.is_done() == 9

    def test_without_a_terminal_streams_are_handed_through(self, command: list[str]) -> None:
        script = "tty; echo to stderr >&2; exit 5\n"
        done = self.ask(command, "alpha", given=script)
        assert (done.returncode, done.stdout, done.stderr) == (5, "not a tty\n", "to stderr\n")
        done = self.ask(command, "--json", "alpha", "--", "echo", "--user")
        assert done.stdout == '{"returncode": 0, "stdout": "--user\\n", "stderr": ""}\n'

    def test_wrong_words_are_answered_in_words(self, command: list[str]) -> None:
        done = self.ask(command, "alhpa")
        assert done.returncode == 1
        assert "did you mean 'alpha'" in done.stderr
        assert "Traceback" not in done.stderr
        done = self.ask(command, "alpha", "uname", "alpha")
        assert done.returncode == 1
        assert "-- CMD" in done.stderr

    def ask(
        self, command: list[str], *words: str, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], input=given, capture_output=True, text=True, timeout=60, check=False
        )


class TestLocal(ShellCommand):
    """Of an open lab, whose process is that of the command."""

    @pytest.fixture
    def command(self, tmp_path: Path) -> list[str]:
        file = tmp_path / "one.yaml"
        file.write_text(ONE)
        return [sys.executable, "-c", _IN_OPEN_LAB, str(file), "shell"]


class KeptByDaemon(ShellCommand):
    backend: ClassVar[str]
    image: ClassVar[str | None] = None

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
        """Where the ledger is, and which lab it has."""
        if Capability.KEEP not in registry.get(cls.backend).capabilities:
            pytest.skip(f"{cls.backend} keeps no labs")
        state = tmp_path_factory.mktemp("state")
        nodes = [{"name": "alpha", "image": cls.image}]
        topology = Topology.from_dict({"networks": [{"name": "lan"}], "nodes": nodes})
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("BENCHSCALE_STATE_DIR", str(state))
            with Lab.open_sync(topology, backend=cls.backend) as lab:
                lab_id = str(lab.lab_id)
                lab.portal.call_blocking(lab.keep, 3600.0)
            yield state, lab_id
            _remove(lab_id)

    @pytest.fixture
    def command(self, kept: tuple[Path, str]) -> list[str]:
        state, lab_id = kept
        return ["env", f"BENCHSCALE_STATE_DIR={state}", sys.executable, "-c", _CLI, "shell", lab_id]


@pytest.mark.daemon("docker")
class TestDocker(KeptByDaemon):
    backend = "docker"
    image = reference("debian")


@pytest.mark.daemon("podman")
class TestPodman(KeptByDaemon):
    backend = "podman"
    image = reference("debian")


def until_counted(seconds: str, count: int) -> None:
    """Wait until so many processes of this machine, and so of the node, are `sleep SECONDS`."""
    deadline = time.monotonic() + 30
    while (found := _count(f"sleep\0{seconds}\0".encode())) != count:
        assert time.monotonic() < deadline, f"{found} instead of {count}"
        time.sleep(0.05)


def _count(command: bytes) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += path.read_bytes() == command
    return found


def _remove(lab_id: str) -> None:
    """Take a kept lab down."""
    entry = Ledger().take(lab_id)
    assert entry is not None
    assert entry.kept is not None
    with Portal() as portal:
        lab = portal.call_blocking(attach, entry, entry.kept, portal, LabOptions())
        portal.call_blocking(lab.down)
