"""What all tests share: a ledger of their own, not that of the user's home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.lab.ledger import Ledger

_SECONDS = 10.0  # for who removes what a killed session has left


@pytest.fixture(scope="session", autouse=True)
def ledger_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have the labs of this run, and of the sessions that it starts, written down in one place."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHSCALE_STATE_DIR", str(directory))
        yield directory
        deadline = time.monotonic() + _SECONDS
        while (left := _labs()) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not left, "\n".join(["the tests left in the ledger:", *left])


def _labs() -> list[str]:
    return [f"{one.lab_id}: {one.standing}, {one.record}" for one in Ledger().labs()]
