"""What the fault tests share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import private
from tests.daemons.hooks import nothing_left_in_daemons, pytest_configure, pytest_runtest_setup
from tests.daemons.private import PrivateDockerd
from tests.faults.sessions import NOBODY, interpreter_for_nobody
from tests.machine import Snapshot, wait_until_as_before

__all__ = ["nothing_left_in_daemons", "pytest_configure", "pytest_runtest_setup"]

if sys.platform != "linux":
    collect_ignore_glob = ["*"]


@pytest.fixture
def nothing_left() -> Iterator[Snapshot]:
    """Count everything on the machine before the test, and fail when there is more after it."""
    before = Snapshot.take()
    yield before
    assert wait_until_as_before(before) == {}


@pytest.fixture
def ledger_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For labs at a daemon that goes away for good: they stay written down, which is as it should be."""
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A directory that another user may enter; pytest closes its own to them now and then."""
    with tempfile.TemporaryDirectory(prefix="work-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture
def as_nobody(workplace: Path) -> str:
    """An interpreter for an ordinary user, who owns the workplace."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    python = interpreter_for_nobody()
    if python is None:
        message = "no interpreter here can be run by an ordinary user"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    os.chown(workplace, NOBODY, NOBODY)
    return python


@pytest.fixture
def private_dockerd() -> Iterator[PrivateDockerd]:
    """A dockerd of the test's own, with the test image `debian`."""
    with private.private_dockerd() as dockerd:
        yield dockerd
