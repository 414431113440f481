"""The watchdog: there when something would outlive us and only then, small, idle, and not to be fooled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_benchscale.lab.ledger import Ledger, Standing

if sys.platform != "linux":
    pytest.skip("looks at /proc", allow_module_level=True)

SECONDS = 30.0  # on a machine that has much else to do
MIB = 1024
OWNER = """
import os, sys, time
from pathlib import Path
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.record import LabRecord
from pytest_benchscale.lab.watching import WATCHING

ledger = Ledger(Path({ledger!r}))

def expect(lab_id):
    WATCHING.expect(lab_id, ledger.directory / "labs" / lab_id)

def enter(lab_id):
    # Of the backend `local`, which has nothing outside its processes: so there is nothing to remove.
    record = LabRecord(
        lab_id=lab_id, name="lan", backend="local", labels={{"benchscale.run": "f" * 32}}, place={{}},
        subnets={{}}, nodes=(), declared={{"networks": []}}, source=None, created=time.time(), booted=1.0,
    )
    expect(lab_id)
    entry = ledger.enter(record)
    WATCHING.learn(entry)
    return entry

def leave(entry):
    entry.strike()
    WATCHING.done(entry.record.lab_id)

def say(*words):
    print(*words, flush=True)

{what}
say("END", WATCHING.pid)
sys.stdin.read()
"""


class Owner:
    """A process that does something with labs of its own, then waits until it is killed."""

    def __init__(self, ledger: Ledger, what: str) -> None:
        self.ledger = ledger
        code = OWNER.format(ledger=str(ledger.directory), what=what)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self.process.stdout is not None
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.startswith("END"):
                break
        self.watchdog = self.said[-1].removeprefix("END").strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def watches(self) -> bool:
        return _is_alive(self.watchdog)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state")


@pytest.fixture
def owner(ledger: Ledger) -> Iterator[Callable[[str], Owner]]:
    owners: list[Owner] = []

    def make(what: str) -> Owner:
        owners.append(Owner(ledger, what))
        return owners[-1]

    yield make
    for one in owners:
        one.kill()
    _wait_until(lambda: not any(one.watches() for one in owners))


def test_it_is_there_as_long_as_there_is_a_lab(owner: Callable[[str], Owner]) -> None:
    said = owner(
        "say(WATCHING.pid); one = enter('1'); first = WATCHING.pid; two = enter('2')\n"
        "say(WATCHING.pid == first, os.path.exists(f'/proc/{first}')); leave(one); leave(two)\n"
        "say(WATCHING.pid, os.path.exists(f'/proc/{first}'))"
    ).said
    assert said == ["None", "True True", "None False", "END None"]


def test_it_is_small_and_does_nothing(owner: Callable[[str], Owner]) -> None:
    watchdog = Path("/proc", owner("enter('1')").watchdog)
    _wait_until(lambda: "poll" in (watchdog / "wchan").read_text() or _switches(watchdog) > 0)
    time.sleep(0.5)  # it begins its work
    before = _switches(watchdog)
    time.sleep(1.0)
    assert _switches(watchdog) == before
    assert int(_status(watchdog, "VmRSS").split()[0]) <= 20 * MIB
    assert os.getsid(int(watchdog.name)) == int(watchdog.name)


@pytest.mark.parametrize(
    "what", ["one = enter('1'); two = enter('2')", "leave(enter('0')); enter('1')"]
)
def test_when_its_owner_is_killed_the_labs_are_removed(
    owner: Callable[[str], Owner], ledger: Ledger, what: str
) -> None:
    process = owner(what)
    process.kill()
    _wait_until(lambda: not process.watches())
    assert not list((ledger.directory / "labs").iterdir())
    assert not list((ledger.directory / "logs").iterdir())


def test_until_then_nobody_takes_them_for_abandoned(
    owner: Callable[[str], Owner], ledger: Ledger
) -> None:
    process = owner("enter('1')")
    os.kill(int(process.watchdog), signal.SIGSTOP)
    process.kill()
    (found,) = ledger.labs()
    assert found.standing is Standing.LIVE
    os.kill(int(process.watchdog), signal.SIGCONT)
    _wait_until(lambda: not list(ledger.labs()))


def test_a_forked_child_of_its_owner_does_not_fool_it(
    owner: Callable[[str], Owner], ledger: Ledger
) -> None:
    process = owner(
        "enter('1')\nif not (child := os.fork()): time.sleep(60); os._exit(0)\nsay(child)"
    )
    process.process.kill()
    try:
        _wait_until(lambda: not list(ledger.labs()))
    finally:
        os.kill(int(process.said[0]), signal.SIGKILL)


def test_signals_for_everybody_do_not_end_it(owner: Callable[[str], Owner], ledger: Ledger) -> None:
    process = owner("enter('1')")
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    wanted = sum(
        1 << (number - 1) for number in signals
    )  # as proc(5) has them; others are ignored anyway
    place = Path("/proc", process.watchdog)
    _wait_until(lambda: int(_status(place, "SigIgn"), 16) & wanted == wanted)
    for number in signals:
        os.kill(int(process.watchdog), number)
    process.kill()
    _wait_until(lambda: not list(ledger.labs()))


def test_another_one_comes_in_place_of_one_that_was_killed(
    owner: Callable[[str], Owner], ledger: Ledger
) -> None:
    process = owner(
        "enter('1'); first = WATCHING.pid; os.kill(first, 9); time.sleep(0.1); enter('2')\n"
        "say(WATCHING.pid != first)"
    )
    assert process.said[0] == "True"
    process.kill()
    _wait_until(lambda: not list(ledger.labs()))


def test_a_lab_that_is_kept_is_left_alone(owner: Callable[[str], Owner], ledger: Ledger) -> None:
    process = owner(
        "one = enter('1'); enter('2'); one.note('kept', state={}, image_ids={})  # and no more than that"
    )
    process.kill()
    _wait_until(lambda: not process.watches())
    assert [found.lab_id for found in ledger.labs()] == ["1"]
    assert [found.standing for found in ledger.labs()] == [Standing.KEPT]


@pytest.mark.parametrize("torn", [None, "", '\n{"event": "lab", "at": 1.0, "lab'])
def test_of_a_lab_that_was_not_yet_written_down_nothing_stays(
    owner: Callable[[str], Owner], ledger: Ledger, torn: str | None
) -> None:
    what = "expect('1'); place = ledger.directory / 'labs' / '1'; place.mkdir(parents=True)\n"
    if torn is not None:
        what += f"(place / 'record').write_text({torn!r})"
    process = owner(what)
    process.kill()
    _wait_until(lambda: not process.watches())
    assert not list((ledger.directory / "labs").iterdir())


def test_a_log_stays_when_something_went_wrong(
    owner: Callable[[str], Owner], ledger: Ledger
) -> None:
    process = owner(
        "entry = enter('1')\n"
        "text = (entry.directory / 'record').read_text()\n"
        "(entry.directory / 'record').write_text(text.replace('\"local\"', '\"nowhere\"'))"
    )
    process.kill()
    _wait_until(lambda: not process.watches())
    assert [found.standing for found in ledger.labs()] == [Standing.LEFT]
    (log,) = (ledger.directory / "logs").iterdir()
    assert "1: is left" in log.read_text()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _status(process: Path, name: str) -> str:
    lines = (process / "status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def _switches(process: Path) -> int:
    return int(_status(process, "voluntary_ctxt_switches"))
