"""The service that is started where none runs: by a program that the test puts in Podman's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_benchscale.backends import podman, podman_service
from pytest_benchscale.backends.podman_service import NotStarted, PodmanService
from tests.unit.backends_docker.fake_daemon import silent_socket

SERVE = f"""#!{sys.executable}
import os, socket, sys, time
path = sys.argv[-1].removeprefix("unix://")
assert sys.argv[1:-1] == ["system", "service", "--time=0"], sys.argv
open(os.environ["PIDS"], "a").write(f"{{os.getpid()}}\\n")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What runs as `podman`; it writes down its process number."""
    path = tmp_path / "bin/podman"
    path.parent.mkdir()
    path.write_text(SERVE)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return path


def pids(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "pids").read_text().split()]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def left(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("benchscale-*"))


def test_the_first_user_starts_it_and_the_last_one_ends_it(program, tmp_path):
    service = PodmanService()
    path = service.acquire()
    assert path.is_socket()
    assert path.stat().st_mode & 0o777
    assert path.parent.stat().st_mode & 0o077 == 0
    assert service.acquire() == path
    (pid,) = pids(tmp_path)
    service.release()
    assert is_running(pid)
    service.release()
    assert not is_running(pid)
    assert not left(tmp_path)


def test_users_that_come_at_once_share_one(program, tmp_path):
    service = PodmanService()
    threads = [threading.Thread(target=service.acquire) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids(tmp_path)) == 1
    for _ in threads:
        service.release()
    assert not is_running(pids(tmp_path)[0])


def test_one_that_died_is_started_anew(program, tmp_path):
    service = PodmanService()
    service.acquire()
    (pid,) = pids(tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert service._process
    service._process.wait(10)
    assert service.acquire().is_socket()
    assert len(pids(tmp_path)) == 2
    service.release()
    service.release()
    assert not left(tmp_path)


def test_one_that_ends_at_once_shows_what_it_said(program, tmp_path):
    program.write_text("#!/bin/sh\necho 'cannot set up namespace' >&2\nexit 125\n")
    with pytest.raises(NotStarted, match="ended at once:\ncannot set up namespace"):
        PodmanService().acquire()
    assert not left(tmp_path)


def test_one_that_never_listens_is_given_up_and_ended(program, tmp_path, monkeypatch):
    monkeypatch.setattr(podman_service, "START_SECONDS", 0.5)
    program.write_text('#!/bin/sh\necho $$ >> "$PIDS"\necho busy\nexec sleep 600\n')
    with pytest.raises(NotStarted, match=r"did not listen within 0\.5 s:\nbusy"):
        PodmanService().acquire()
    assert not is_running(pids(tmp_path)[0])
    assert not left(tmp_path)


def test_one_that_will_not_end_is_killed(program, tmp_path, monkeypatch):
    monkeypatch.setattr(podman_service, "_END_SECONDS", 0.5)
    program.write_text(
        SERVE.replace("import os,", "import signal, os,").replace(
            "listener =", "signal.signal(signal.SIGTERM, signal.SIG_IGN); listener ="
        )
    )
    service = PodmanService()
    service.acquire()
    service.release()
    deadline = time.monotonic() + 5
    while is_running(pids(tmp_path)[0]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not left(tmp_path)


def test_it_ends_when_its_starter_is_killed(program, tmp_path):
    command = (
        "import sys, time\n"
        "from pytest_benchscale.backends.podman_service import PodmanService\n"
        "print(PodmanService().acquire(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        assert starter.stdout.readline()
        (pid,) = pids(tmp_path)
        starter.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) or left(tmp_path):
        assert time.monotonic() < deadline, "it outlived its starter"
        time.sleep(0.02)


def test_container_host_counts_more_than_any_socket():
    found = podman.find_podman({"CONTAINER_HOST": "tcp://box:1"})
    assert found is not None
    assert found.place == "tcp://box:1 (CONTAINER_HOST)"


def test_a_socket_of_the_user_counts_if_it_answers(tmp_path):
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "podman").mkdir()
    path = tmp_path / "podman/podman.sock"
    with silent_socket(path):
        found = podman.find_podman(environment)
        assert found is not None
        assert found.url == f"unix://{path}"
    other = podman.find_podman(environment)
    assert other is None or other.url != f"unix://{path}"
