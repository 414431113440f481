"""A terminal from the command line, without a real one at the other end: `shell`, and `logs -f`."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.cli import main
from pytest_benchscale.commands.following import added
from pytest_benchscale.commands.whereabouts import find
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.ledger import Ledger, Standing
from tests.fake_backend import Script, make_backend


@pytest.fixture(autouse=True)
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "vt100")
    monkeypatch.chdir(tmp_path)
    Path("lan.yaml").write_text("network: {name: lan}\nnodes: [{name: a}]\n")
    script = Script()
    registry.register("fake", make_backend(script, capabilities=frozenset(Capability)))
    yield script
    registry.unregister("fake")


@pytest.fixture
def lab():
    assert main(["up", "lan.yaml", "--backend", "fake"]) == 0
    (found,) = Ledger().labs()
    return found.lab_id


@pytest.fixture
def keyboard():
    """The other end of the terminal on our standard input."""
    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    before = os.dup(0)
    os.dup2(slave, 0)
    yield master
    os.dup2(before, 0)
    for descriptor in (before, master, slave):
        os.close(descriptor)


def once_raw(action):
    """Do something as soon as the terminal hands on every key."""

    def wait():
        while termios.tcgetattr(0)[3] & termios.ECHO:
            time.sleep(0.01)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_what_is_typed_goes_to_the_node_and_the_exit_code_comes_back(lab, keyboard, capfd):
    before = termios.tcgetattr(0)
    once_raw(lambda: os.write(keyboard, b"half\x03stty size\recho $TERM\rexit 7\r"))
    assert main(["shell", lab[:6], "a"]) == 7
    shown = capfd.readouterr().out
    assert "half^C" in shown
    assert "30 90\r\n" in shown
    assert "vt100\r\n" in shown
    assert termios.tcgetattr(0) == before
    (found,) = Ledger().labs()
    assert found.standing is Standing.KEPT


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal_and_the_handlers(lab, keyboard, signum):
    before, handler = termios.tcgetattr(0), signal.getsignal(signum)
    main_thread = threading.get_ident()
    once_raw(lambda: signal.pthread_kill(main_thread, signum))
    assert main(["shell", "a"]) == 128 + signum
    assert termios.tcgetattr(0) == before
    assert signal.getsignal(signum) == handler


def test_a_node_that_is_not_there_leaves_the_terminal_alone(lab, keyboard, capfd):
    before = termios.tcgetattr(0)
    assert main(["shell", lab, "b"]) == 1
    assert "no node 'b'" in capfd.readouterr().err
    assert termios.tcgetattr(0) == before


def test_without_a_terminal_streams_are_handed_through(lab, capfd):
    capfd.readouterr()
    assert main(["shell", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 5"]) == 5
    assert capfd.readouterr() == ("out\n", "err\n")


def test_logs_are_followed_until_a_signal_comes(lab, capfd):
    main_thread = threading.get_ident()
    threading.Timer(1.2, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    assert main(["exec", lab, "a", "log", "hello"]) == 0
    capfd.readouterr()
    assert main(["logs", lab, "a", "-f"]) == 130
    assert capfd.readouterr().out == "hello\n"


def test_what_was_added_to_a_log_is_found():
    assert added("", "one\n") == "one\n"
    assert added("one\n", "one\ntwo\n") == "two\n"
    assert added("one\ntwo\n", "[earlier lines are left out]\ntwo\nthree\n") == (
        "[earlier lines are left out]\ntwo\nthree\n"
    )
    long = "".join(f"line {number}\n" for number in range(2000))
    assert added(long, "[...]\n" + long[9000:] + "new\n") == "new\n"


def test_a_lab_is_found_by_id_prefix_name_or_being_alone(lab):
    for wanted in (lab, lab[:5], "lan", None):
        assert find(wanted, Ledger()).lab_id == lab
    with pytest.raises(LabError, match="no kept lab 'other'"):
        find("other", Ledger())
    entered = Ledger().visit(lab)
    assert entered is not None
    assert Ledger().visit(lab) is not None, "others may visit it, too"
    assert Ledger().take(lab) is None, "but nobody may take it"
    entered[0].let_go()
