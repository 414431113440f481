"""The ledger: what is written down comes back, whatever happened to the file, the disk and the clock."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab import garbage, ledger, owner, record_file
from pytest_benchscale.lab.ledger import Ledger, Standing, state_directory
from pytest_benchscale.lab.owner import owner_labels, since_boot
from pytest_benchscale.lab.record import FORMAT, Kept, LabRecord

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


def a_record(lab_id: str = "cafe0001", **changes) -> LabRecord:
    facts = {
        "name": "lan",
        "backend": "docker",
        "labels": dict(owner_labels()),
        "place": {"DOCKER_HOST": "unix:///nowhere"},
        "subnets": {"lan": "10.0.0.0/24"},
        "nodes": ("a", "b"),
        "declared": {"nodes": [{"name": "a"}, {"name": "b"}]},
        "source": None,
        "created": time.time(),
        "booted": since_boot(),
    }
    return LabRecord(lab_id=lab_id, **(facts | changes))


def kept_for(seconds: float | None) -> dict[str, Any]:
    until = None if seconds is None else time.time() + seconds
    booted = None if seconds is None else since_boot() + seconds
    return Kept(state={}, image_ids={}, until=until, until_booted=booted).to_json()


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state")


@pytest.fixture
def file(book: Ledger) -> Path:
    """The record of a lab that nobody holds."""
    entry = book.enter(a_record())
    entry.let_go()
    return entry.directory / "record"


def the_one(book: Ledger) -> ledger.Found:
    (found,) = book.labs()
    return found


class TestOneLab:
    def test_what_is_written_down_is_found_again(self, book: Ledger) -> None:
        record = a_record()
        entry = book.enter(record)
        found = the_one(book)
        assert (found.standing, found.record, found.kept) == (Standing.LIVE, record, None)
        entry.strike()
        assert list(book.labs()) == []

    def test_only_the_user_can_look_at_it(self, book: Ledger) -> None:
        entry = book.enter(a_record())
        modes = [entry.directory.parent, entry.directory, entry.directory / "record"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in modes] == [0o700, 0o700, 0o600]
        entry.let_go()

    def test_nobody_takes_what_somebody_holds(self, book: Ledger) -> None:
        entry = book.enter(a_record())
        assert book.take("cafe0001") is None
        entry.let_go()
        taken = book.take("cafe0001")
        assert taken is not None
        assert taken.record == entry.record
        assert book.take("cafe0001") is None
        taken.strike()
        assert book.take("cafe0001") is None

    def test_who_only_looks_keeps_nobody_from_taking(self, book: Ledger, file: Path) -> None:
        script = (
            "import fcntl, os, sys, time; fd = os.open(sys.argv[1], os.O_RDONLY)\n"
            "fcntl.flock(fd, fcntl.LOCK_SH); print(1, flush=True); time.sleep(0.1)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE
        ) as looker:
            assert looker.stdout is not None
            looker.stdout.readline()
            taken = book.take("cafe0001")
        assert taken is not None
        taken.let_go()

    def test_a_lab_whose_owner_was_killed_is_left_behind(self, book: Ledger, file: Path) -> None:
        process = _holder(file)
        assert the_one(book).standing is Standing.LIVE
        process.kill()
        process.wait()
        assert the_one(book).standing is Standing.LEFT

    def test_an_open_record_that_is_handed_over_stays_locked(self, book: Ledger) -> None:
        entry = book.enter(a_record())
        other = os.dup(entry.fileno())
        entry.let_go()
        assert the_one(book).standing is Standing.LIVE
        held = book.hold("cafe0001", other)
        assert held is not None
        held.strike()
        assert not book.knows("cafe0001")

    def test_a_descriptor_of_another_file_holds_no_lab(self, book: Ledger, file: Path) -> None:
        with file.with_name("other").open("w") as other:
            assert book.hold("cafe0001", other.fileno()) is None

    @pytest.mark.parametrize("name", ["", ".", "..", "../labs/cafe0001", "a\0b"])
    def test_what_is_no_lab_id_leads_nowhere(self, book: Ledger, file: Path, name: str) -> None:
        assert book.take(name) is None
        assert not book.knows(name)
        assert not book.clear(name)

    def test_its_files_go_with_it_and_the_record_last(self, book: Ledger) -> None:
        entry = book.enter(a_record())
        (entry.directory / "keys").mkdir()
        (entry.directory / "keys" / "id").write_text("x")
        (entry.directory / "link").symlink_to("/etc")
        entry.strike()
        assert list(entry.directory.parent.iterdir()) == []
        assert Path("/etc").exists()


class TestDamage:
    def test_a_torn_line_counts_for_nothing(self, book: Ledger, file: Path) -> None:
        whole = json.dumps({"event": "kept", "at": 1, "boot": "", **kept_for(60)})
        with file.open("a") as record:
            record.write("\n" + whole)  # without its end
        assert the_one(book).standing is Standing.LEFT
        entry = book.take("cafe0001")
        assert entry is not None
        entry.note("kept", **kept_for(60))
        entry.let_go()
        assert the_one(book).standing is Standing.KEPT

    @pytest.mark.parametrize(
        "line",
        ["{", '"text"', "[]", "\0\0\0", "{}", '{"event": "kept", "at": 1, "boot": ""}', "\xff"],
    )
    def test_a_whole_line_that_cannot_be_read_leaves_the_lab_alone(
        self, book: Ledger, file: Path, line: str
    ) -> None:
        with file.open("a", encoding="latin-1") as record:
            record.write(f"\n{line}\n")
        found = the_one(book)
        assert found.standing is Standing.BROKEN
        assert found.problem is not None
        assert found.problem.startswith("a line of it cannot be read")
        assert book.take("cafe0001") is None

    def test_a_later_line_makes_up_for_it(self, book: Ledger, file: Path) -> None:
        fine = json.dumps({"event": "taken", "at": 1, "boot": ""})
        with file.open("a") as record:
            record.write(f"\nrubbish\n\n{fine}\n")
        assert the_one(book).standing is Standing.LEFT

    def test_rubbish_before_the_lab_is_no_harm(self, book: Ledger, file: Path) -> None:
        file.write_text("rubbish\n" + file.read_text())
        assert the_one(book).standing is Standing.LEFT

    def test_words_of_a_later_version_are_passed_over(self, book: Ledger, file: Path) -> None:
        more = json.dumps({"event": "sung about", "at": 1, "boot": ""})
        with file.open("a") as record:
            record.write(f"\n{more}\n")
        assert the_one(book).standing is Standing.LEFT

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"format": FORMAT + 1, "colour": "red"}, "newer version"),
            ({"lab_id": "beef0001"}, "another lab"),
            ({"labels": {}}, "benchscale.run"),
            ({"labels": {"benchscale.run": ""}}, "whose the lab is"),
            ({"labels": ["x"]}, "a line of it"),
            ({"place": {"DOCKER_HOST": 1}}, "a text"),
            ({"nodes": None}, "a line of it"),
            ({"created": "yesterday"}, "a line of it"),
            ({"colour": "red"}, "a line of it"),
        ],
    )
    def test_a_record_that_is_none_leaves_the_lab_alone(
        self, book: Ledger, file: Path, changes: dict[str, Any], problem: str
    ) -> None:
        facts = {"event": "lab", "at": 1, "boot": "", **a_record().to_json(), **changes}
        file.write_text(f"\n{json.dumps(facts)}\n")
        found = the_one(book)
        assert found.standing is Standing.BROKEN
        assert problem in (found.problem or "")
        assert book.take("cafe0001") is None
        assert not book.clear("cafe0001")

    @pytest.mark.parametrize("text", ["", "\n", '\n{"event": "lab", "at": 17'])
    def test_what_was_never_written_to_its_end_was_never_made(
        self, book: Ledger, file: Path, text: str
    ) -> None:
        file.write_text(text)
        assert the_one(book).standing is Standing.UNMADE
        assert book.clear("cafe0001")
        assert list(book.labs()) == []

    def test_so_was_a_directory_without_anything(self, book: Ledger, file: Path) -> None:
        file.unlink()
        assert the_one(book).standing is Standing.UNMADE
        assert book.clear("cafe0001")

    def test_a_directory_with_files_and_without_a_record_is_left_alone(
        self, book: Ledger, file: Path
    ) -> None:
        file.rename(file.with_name("record.old"))
        assert the_one(book).standing is Standing.BROKEN
        assert not book.clear("cafe0001")

    def test_a_record_that_leads_elsewhere_is_not_followed(
        self, book: Ledger, file: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "elsewhere"
        file.rename(target)
        file.symlink_to(target)
        assert book.take("cafe0001") is None

    @as_root
    def test_a_record_of_another_user_is_not_believed(self, book: Ledger, file: Path) -> None:
        os.chown(file, NOBODY, NOBODY)
        assert the_one(book).problem == "it belongs to another user"
        assert book.take("cafe0001") is None


class TestNoRoom:
    def test_a_file_in_its_place_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("x")
        with pytest.raises(LabError, match="cannot be written down") as caught:
            Ledger(tmp_path / "state").enter(a_record())
        assert "BENCHSCALE_STATE_DIR" in (caught.value.resolution or "")

    def test_labs_that_is_no_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "labs").write_text("x")
        with pytest.raises(LabError, match="not a directory"):
            Ledger(tmp_path).enter(a_record())
        with pytest.raises(LabError, match="cannot be read"):
            list(Ledger(tmp_path).labs())

    @as_root
    def test_the_ledger_of_another_user_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "labs").mkdir()
        os.chown(tmp_path / "labs", NOBODY, NOBODY)
        with pytest.raises(LabError, match="belongs to another user"):
            Ledger(tmp_path).enter(a_record())

    @as_root
    def test_a_read_only_disk_is_an_error_before_anything_is_made(self, tmp_path: Path) -> None:
        with _mounted(tmp_path, "size=1m,ro"), pytest.raises(LabError, match=r"[Rr]ead-only"):
            Ledger(tmp_path).enter(a_record())

    @as_root
    def test_a_full_disk_is_an_error_before_anything_is_made(self, tmp_path: Path) -> None:
        with _mounted(tmp_path, "size=16k"):
            book = Ledger(tmp_path)
            entry = book.enter(a_record())  # with room for this one
            with pytest.raises(LabError, match="No space left"):
                _fill(book)
            with pytest.raises(OSError, match="No space left"):
                entry.note("kept", **kept_for(60), text="x" * 16384)
            entry.let_go()
            lab = next(found for found in book.labs() if found.lab_id == "cafe0001")
            assert lab.standing is Standing.LEFT
            again = book.take("cafe0001")
            assert again is not None
            again.strike()  # which needs no room
            assert not book.knows("cafe0001")

    def test_a_limit_of_the_size_tears_no_line(self, tmp_path: Path) -> None:
        """Also for who is not root: RLIMIT_FSIZE cuts a write short, as a full disk does."""
        script = (
            "import resource, sys, pathlib\n"
            "from pytest_benchscale.lab.ledger import Ledger\n"
            "entry = Ledger(pathlib.Path(sys.argv[1])).take('cafe0001')\n"
            "size = (entry.directory / 'record').stat().st_size\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))\n"
            "try: entry.note('kept', state={}, image_ids={})\n"
            "except OSError as error: print(error.strerror)\n"
            "print((entry.directory / 'record').stat().st_size == size)\n"
        )
        Ledger(tmp_path).enter(a_record()).let_go()
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\n")[:2] == ["File too large", "True"]

    def test_a_lab_that_cannot_be_struck_off_is_told_and_stays(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> None:
            raise PermissionError(13, "Permission denied")

        entry = book.enter(a_record())
        monkeypatch.setattr(ledger, "_remove", refuse)
        with pytest.raises(LabError, match="cannot be struck off"):
            entry.strike()
        assert the_one(book).standing is Standing.LEFT


class TestTime:
    def keep(self, book: Ledger, seconds: float | None) -> None:
        entry = book.enter(a_record())
        entry.note("kept", **kept_for(seconds))
        entry.let_go()

    def test_a_kept_lab_is_kept_until_its_time_is_over(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.keep(book, 60)
        assert the_one(book).standing is Standing.KEPT
        later = since_boot() + 61
        monkeypatch.setattr(ledger, "since_boot", lambda: later)
        assert the_one(book).standing is Standing.EXPIRED

    def test_without_a_time_it_is_kept_for_ever(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.keep(book, None)
        monkeypatch.setattr(time, "time", lambda: 1e12)
        assert the_one(book).standing is Standing.KEPT

    @pytest.mark.parametrize("clock", [0.0, 1e12])
    def test_setting_the_clock_changes_nothing_in_the_same_boot(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch, clock: float
    ) -> None:
        self.keep(book, 60)
        monkeypatch.setattr(time, "time", lambda: clock)
        assert the_one(book).standing is Standing.KEPT

    def test_after_a_reboot_the_clock_counts_and_it_is_said(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.keep(book, 60)
        for module in (ledger, record_file):
            monkeypatch.setattr(module, "boot_id", lambda: "another")
        monkeypatch.setattr(ledger, "since_boot", lambda: 5.0)
        found = the_one(book)
        assert (found.standing, found.rebooted) == (Standing.KEPT, True)
        assert found.record is not None
        created = found.record.created
        monkeypatch.setattr(time, "time", lambda: created + 61)
        assert the_one(book).standing is Standing.EXPIRED

    def test_where_the_boot_is_not_known_nothing_is_said_of_it(
        self, book: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.keep(book, 60)
        for module in (ledger, record_file, owner):
            monkeypatch.setattr(module, "boot_id", lambda: "")
        found = the_one(book)
        assert (found.standing, found.rebooted) == (Standing.KEPT, False)

    def test_who_takes_a_kept_lab_sees_what_was_written_last(self, book: Ledger) -> None:
        self.keep(book, 60)
        entry = book.take("cafe0001")
        assert entry is not None
        assert entry.standing is Standing.KEPT
        entry.note("taken")
        entry.let_go()
        assert the_one(book).standing is Standing.LEFT


CROWD = """
import os, pathlib, sys, traceback
from pytest_benchscale.lab.ledger import Ledger, Standing
from tests.unit.lab.test_ledger import a_record

def work(me):
    book = Ledger(pathlib.Path(sys.argv[1]))
    for number in range(10):
        entry = book.enter(a_record(f"{me}-{number}"))
        for found in book.labs():
            if found.standing is Standing.UNMADE:
                book.clear(found.lab_id)
            assert found.standing in (Standing.LIVE, Standing.UNMADE), (found.standing, found.problem)
        assert book.take(f"{me}-{number}") is None
        entry.note("taken")
        entry.strike()

for number in range(20):
    if not os.fork():
        try:
            work(f"p{number}")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(20)])
"""


def test_twenty_processes_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    book = tmp_path / "new" / "state"
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(book)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == f"{[0] * 20}\n", done.stderr
    assert list(Ledger(book).labs()) == []


class TestWhere:
    def test_the_variables_are_asked_in_order(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("BENCHSCALE_STATE_DIR")
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        assert state_directory() == tmp_path / ".local/state/benchscale"
        monkeypatch.setenv("XDG_STATE_HOME", "/x")
        assert state_directory() == Path("/x/benchscale")
        monkeypatch.setenv("BENCHSCALE_STATE_DIR", "~/mine")
        assert state_directory() == tmp_path / "mine"

    def test_looking_at_a_ledger_makes_none(self, tmp_path: Path) -> None:
        assert list(Ledger(tmp_path / "state").labs()) == []
        assert Ledger(tmp_path / "state").take("cafe0001") is None
        assert not (tmp_path / "state").exists()


def test_a_line_tells_of_what_ended_sessions_have_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path))
    assert garbage.leftovers() is None
    mine = Ledger().enter(a_record("cafe0000"))
    assert garbage.leftovers() is None
    Ledger().enter(a_record("cafe0001")).let_go()
    ending = "left (docker): `benchscale list`, `benchscale gc`"
    assert garbage.leftovers() == f"1 lab of an ended session is {ending}"
    mine.let_go()
    assert garbage.leftovers() == f"2 labs of ended sessions are {ending}"


def _fill(book: Ledger) -> None:
    for number in range(8):
        book.enter(a_record(f"beef{number:04}")).let_go()


def _holder(file: Path) -> subprocess.Popen[str]:
    """Start a process that has a record locked, as a session has."""
    descriptor = os.open(file, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], text=True, pass_fds=[descriptor]
    )
    os.close(descriptor)
    return process


class _mounted:  # noqa: N801  used as a function
    """A small disk of its own at a directory."""

    def __init__(self, place: Path, options: str) -> None:
        self._place, self._options = place, options

    def __enter__(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", str(self._place)]
        subprocess.run(command, check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self._place)], check=True)
