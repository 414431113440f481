"""The process that changes a machine's traffic control, and clears up after whoever asked for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

MACHINE = Path(__file__).with_name("keeper_machine.py")


def play(scene: str) -> Any:
    """Return what a scene shows, in a network namespace of its own."""
    argv = [sys.executable, str(MACHINE), scene]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_what_was_made_is_gone_when_whoever_asked_for_it_was_killed(signal: str) -> None:
    there, after = play(signal)
    assert there == ["lo", "queue", "tap"]
    assert after == ["lo", "tap"]


def test_closing_takes_everything_away() -> None:
    there, gone = play("closed")
    assert there == ["lo", "queue", "tap"]
    assert gone == ["lo", "tap"]


def test_a_device_that_went_and_came_again_gets_all_of_it_again() -> None:
    there, gone = play("exchanged")
    assert there == ["lo", "queue", "tap"]
    assert gone == ["lo", "tap"]


def test_what_is_refused_says_what_and_a_keeper_that_was_killed_is_made_again() -> None:
    unknown, foreign, gone, works, left = play("wrong")
    assert "No such device" in unknown
    assert "nosuch" in unknown
    assert "tap" in foreign
    assert foreign.startswith("FileExistsError")
    assert "traffic control is gone" in gone
    assert works == ""
    assert left == ["lo", "tap"]
