"""Ctrl-C: whenever it comes, the lab is rolled back, pytest says so, and nothing hangs."""

from __future__ import annotations

import signal

import pytest

MARKED = """
    import pytest

    @pytest.mark.topology("lan.yaml", backend="{backend}")
    def test_it(lab):
        {body}

    def test_never_reached():
        assert False
"""
DEADLINE = 30


@pytest.mark.parametrize(
    ("backend", "body", "moment"),
    [
        ("slow", "pass", "creating server"),
        ("fake", "lab.sync['server'].exec('sleep 50')", "entering server"),
        ("slow-to-close", "pass", "deleting server"),
    ],
    ids=["while the lab comes up", "in a test", "while the lab goes down"],
)
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
