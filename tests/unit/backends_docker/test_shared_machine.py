"""Which daemons share this machine, and what is killed on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_benchscale.backends.docker import shared_machine
from pytest_benchscale.backends.docker.shared_machine import kill_inside, shares_this_machine
from pytest_benchscale.transports.container.hijack import DaemonAddress

CONTAINER = "0123456789abcdef" * 4


@pytest.fixture
def listening(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield DaemonAddress("unix", path=str(tmp_path / "socket"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as making links does")
def test_a_daemon_among_our_own_processes_shares_this_machine(listening, monkeypatch):
    assert shares_this_machine(listening)
    monkeypatch.setattr(shared_machine, "_may_change_networks", lambda: False)
    assert not shares_this_machine(listening)


def test_an_ordinary_user_shares_it_with_nobody(listening, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not shares_this_machine(listening)


def test_a_daemon_elsewhere_or_one_that_is_not_there_shares_nothing(tmp_path):
    assert not shares_this_machine(DaemonAddress("tcp", host="192.0.2.1", port=2375))
    assert not shares_this_machine(DaemonAddress("unix", path=str(tmp_path / "absent")))


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in no container."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()  # it might be stopped


def test_a_process_that_is_not_of_the_container_is_left_alone(somebody):
    assert not kill_inside(somebody.pid, CONTAINER)
    assert os.waitid(os.P_PID, somebody.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG) is None


def test_a_process_that_has_ended_is_not_of_the_container(somebody):
    somebody.communicate(b"\n", timeout=20)
    assert not kill_inside(somebody.pid, CONTAINER)


@pytest.mark.parametrize("pid", [0, -1, 2**40])
def test_what_is_no_process_is_not_killed(pid):
    assert not kill_inside(pid, CONTAINER)


def test_without_a_hold_on_processes_nothing_is_killed(somebody, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert not kill_inside(somebody.pid, CONTAINER)
