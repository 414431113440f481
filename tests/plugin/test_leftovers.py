"""What a session says of labs that earlier ones have left: one line, and it touches none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_benchscale.lab.ledger import Ledger
from tests.unit.lab.test_ledger import a_record

LINE = "benchscale: 1 lab of an ended session is left (docker): `benchscale list`, `benchscale gc`"


@pytest.fixture
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(directory))
    return directory


def test_a_session_with_labs_tells_of_what_is_left_and_removes_nothing(suite, own_ledger):
    Ledger().enter(a_record()).let_go()
    suite.makepyfile("""
        import pytest

        @pytest.mark.topology("lan.yaml")
        def test_it(lab):
            pass
    """)
    result = suite.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([LINE])
    assert [found.lab_id for found in Ledger().labs()] == ["cafe0001"]


def test_a_session_without_labs_neither_reads_nor_writes(suite, own_ledger):
    suite.makepyfile("""
        import sys

        def test_it():
            assert "pytest_benchscale.lab.ledger" not in sys.modules
    """)
    suite.makeconftest("")
    suite.makeini("[pytest]\n")
    result = suite.run_subprocess("-p", "no:xdist", timeout=60)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*benchscale:*")
    assert not own_ledger.exists()
