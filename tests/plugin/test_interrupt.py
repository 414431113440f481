"""Ctrl-C: whenever it comes, the lab is rolled back, pytest says so, and nothing hangs."""

from __future__ import annotations

import signal
import time

import pytest

CASES = pytest.mark.parametrize(
    ("backend", "body", "moment"),
    [
        ("slow", "pass", "creating server"),
        ("fake", "lab.sync['server'].exec('sleep 50')", "entering server"),
        ("slow-to-close", "pass", "deleting server"),
    ],
    ids=["while the lab comes up", "in a test", "while the lab goes down"],
)
MARKED = """
    import pytest

    @pytest.mark.topology("lan.yaml", backend="{backend}")
    def test_it(lab):
        {body}

    def test_never_reached():
        assert False
"""
DEADLINE = 30


@CASES
def test_an_interrupt_rolls_back_and_pytest_says_interrupted(suite, backend, body, moment):
    suite.makepyfile(MARKED.format(backend=backend, body=body))
    process = suite.start()
    try:
        suite.wait_for_event(moment, DEADLINE)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert suite.events() == ["open lan", "close lan"]


@CASES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_rolls_back_and_the_exit_code_tells(suite, backend, body, moment, number):
    suite.makepyfile(MARKED.format(backend=backend, body=body))
    process = suite.start()
    try:
        suite.wait_for_event(moment, DEADLINE)
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + number, output
    assert f"pytest was ended by {number.name}" in output
    assert suite.events() == ["open lan", "close lan"]


def test_a_second_request_ends_pytest_at_once(suite):
    suite.makepyfile(MARKED.format(backend="slow-to-close", body="pass"))
    process = suite.start()
    try:
        suite.wait_for_event("deleting server", DEADLINE)
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:  # the first may not have been handled when the second comes
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_handlers_of_others_are_left_alone_and_ours_go_with_the_run(suite):
    suite.makepyfile(MARKED.format(backend="fake", body="pass").replace("assert False", "pass"))
    suite.makeconftest(
        suite.CONFTEST
        + """
import signal
from pathlib import Path

signal.signal(signal.SIGHUP, signal.SIG_IGN)

def pytest_configure(config):
    config.add_cleanup(lambda: Path("after.txt").write_text(
        f"{signal.getsignal(signal.SIGTERM)!r} {signal.getsignal(signal.SIGHUP)!r}"
    ))

def pytest_runtest_logfinish():
    Path("during.txt").write_text(
        f"{signal.getsignal(signal.SIGTERM)!r} {signal.getsignal(signal.SIGHUP)!r}"
    )
"""
    )
    process = suite.start()
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    during, after = ((suite.path / name).read_text() for name in ("during.txt", "after.txt"))
    assert "_Signals" in during.split(" <Handlers")[0]
    assert during.endswith(repr(signal.SIG_IGN))
    assert after == f"{signal.SIG_DFL!r} {signal.SIG_IGN!r}"
