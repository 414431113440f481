"""`benchscale list` and `benchscale gc`, without daemons; with them: tests/faults/test_gc.py."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.cli import main
from pytest_benchscale.lab import ledger, record_file
from pytest_benchscale.lab.ledger import Entry, Ledger
from pytest_benchscale.lab.owner import owner_labels, since_boot
from pytest_benchscale.lab.record import Kept, LabRecord


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(registry, "names", lambda: ())  # no daemon of this machine is asked
    return tmp_path


def enter(lab_id: str, age: float = 0) -> Entry:
    """Write down a lab of a backend that is not installed (any more)."""
    record = LabRecord(
        lab_id=lab_id,
        name="lan",
        backend="quantum",
        labels={**owner_labels(), "benchscale.pid": "17"},
        place={"QUANTUM_HOST": "far"},
        subnets={},
        nodes=("a", "b"),
        declared={},
        source="/src/lan.yaml",
        created=time.time() - age,
        booted=since_boot() - age,
    )
    return Ledger().enter(record)


def keep(lab_id: str, seconds: float) -> None:
    entry = enter(lab_id)
    until, booted = time.time() + seconds, since_boot() + seconds
    entry.note("kept", **Kept({}, {}, until=until, until_booted=booted).to_json())
    entry.let_go()


def test_where_there_are_no_labs_that_is_said(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert main(["list", "--json"]) == 0
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "there are no labs\n[]\nthere is nothing to remove\n"
    assert list(own_ledger.iterdir()) == []


def test_the_list_tells_of_each_lab_how_it_is_with_it(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = enter("cafe0001", age=7300)
    enter("cafe0002", age=90).let_go()
    keep("cafe0003", 60)
    keep("cafe0004", -60)
    (own_ledger / "labs/cafe0005").mkdir()
    (own_ledger / "labs/cafe0005/record").write_text("\nrubbish\n")
    assert main(["list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["lab", "name", "backend", "nodes", "age", "standing", "owner", "until"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["cafe0001"].split()[1:] == ["lan", "quantum", "2", "2", "h", "in", "use", "17"]
    assert rows["cafe0002"].split()[1:] == [
        "lan",
        "quantum",
        "2",
        "1",
        "min",
        "left",
        "behind",
        "17",
    ]
    assert " kept  " in rows["cafe0003"]
    assert "kept, and its time is over" in rows["cafe0004"]
    assert "cannot be read: a line of it cannot be read" in rows["cafe0005"]
    assert main(["list", "--json"]) == 0
    facts = {lab["lab"]: lab for lab in json.loads(capsys.readouterr().out)}
    assert [facts[f"cafe000{number}"]["standing"] for number in range(1, 6)] == [
        "live",
        "left",
        "kept",
        "expired",
        "broken",
    ]
    assert facts["cafe0001"]["nodes"] == ["a", "b"]
    assert facts["cafe0001"]["owner"] == 17
    assert 7300 <= facts["cafe0001"]["age"] < 7400
    live.let_go()


def test_a_lab_from_before_a_reboot_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep("cafe0001", 60)
    for module in (ledger, record_file):
        monkeypatch.setattr(module, "boot_id", lambda: "another")
    assert main(["list"]) == 0
    assert "kept; the machine was restarted since" in capsys.readouterr().out


def test_gc_keeps_for_later_what_it_has_no_backend_for_and_leaves_what_it_cannot_read(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enter("cafe0001").let_go()
    (own_ledger / "labs/cafe0002").mkdir()
    (own_ledger / "labs/cafe0002/record").write_text("\nrubbish\n")
    (own_ledger / "labs/cafe0003").mkdir()
    assert main(["gc", "--yes"]) == 0
    shown = capsys.readouterr().out
    why = "kept for later: quantum (QUANTUM_HOST=far): there is no backend of that name"
    assert f"left alone: lab cafe0001 (lan, quantum): {why}" in shown
    assert f"left alone: lab cafe0002: its record in {own_ledger}/labs/cafe0002 cannot" in shown
    assert "removed: lab cafe0003: never made" in shown
    assert {path.name for path in (own_ledger / "labs").iterdir()} == {"cafe0001", "cafe0002"}


def test_a_ledger_that_cannot_be_read_is_an_error(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_ledger / "labs").write_text("x")
    assert main(["list"]) == 1
    assert main(["gc"]) == 1
    assert "cannot be read: Not a directory" in capsys.readouterr().err
