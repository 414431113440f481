"""Reading a guest's serial console while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_benchscale.backends.libvirt.console import Console, plain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_console_that_is_not_there_yet_is_empty(path: Path) -> None:
    console = Console(path)
    assert console.text() == console.tail() == ""
    assert console.trouble() is None
    assert console.complaints() == []


def test_what_is_for_terminals_is_left_out() -> None:
    sent = (
        b"\x1b[2J\x1b[01;01H\x1b[0;32m  OK  \x1b[0m] Started \x1b]0;title\x07ssh\r\r\n"
        b"\x1b(B\x1bcg\xc3\xbcnstig\x00\x08\x7f\rnext\tone\xff\n"
    )
    assert plain(sent) == "  OK  ] Started ssh\ng\xfcnstig\nnext\tone\ufffd\n"


def test_the_tail_is_the_last_lines_with_something_in_them(path: Path) -> None:
    table = "[ 5.0] cloud-init[251]: ci-info: |   4   |  fe80::/64  |\r\n\r\n"
    _append(path, "".join(f"line {n}\r\n{table}" for n in range(50)))
    assert Console(path).tail(3) == "line 47\nline 48\nline 49"


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (
            "[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            "its kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        ("[ 3.4] ---[ end Kernel panic - not syncing: Fatal exception ]---", "its kernel panicked"),
        (
            "You are in emergency mode. After logging in, type",
            "its system went into emergency mode",
        ),
        (
            "[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mEmergency Mode\x1b[0m.",
            "its system went into emergency mode",
        ),
        ("Give root password for maintenance", "its system went into emergency mode"),
        (
            "ALERT!  UUID=12 does not exist.  Dropping to a shell!",
            "its root file system is not there: UUID=12 does not exist",
        ),
        ("grub rescue> ", "its boot loader finds no system"),
        ("No bootable device.", "its disk has no boot loader"),
    ],
)
def test_what_ends_a_boot_is_recognised(path: Path, words: str, meaning: str) -> None:
    console = Console(path)
    _append(path, f"[ 0.1] Linux version 6.1\n{words}\n")
    assert (console.trouble() or "").startswith(meaning)
    assert console.trouble() is None, "it is told once"


def test_what_comes_in_pieces_is_recognised_as_a_whole(path: Path) -> None:
    console = Console(path)
    _append(path, "[ 1.0] Kernel pan")
    assert console.trouble() is None
    _append(path, "ic - not syncing: Attempted to kill init!\n")
    assert console.trouble() == "its kernel panicked: Attempted to kill init!"


def test_an_ordinary_boot_is_no_trouble(path: Path) -> None:
    console = Console(path)
    _append(
        path,
        "[    0.0] Command line: root=/dev/vda console=ttyS0 panic=-1\n"
        "[  OK  ] Stopped target emergency.target\n"
        "[  OK  ] Reached target Multi-User System.\ndebian login: ",
    )
    assert console.trouble() is None


def test_another_boot_begins_with_what_comes_next(path: Path) -> None:
    console = Console(path)
    _append(path, "Kernel panic - not syncing: old\n")
    console.skip()
    assert console.trouble() is None
    _append(path, "Linux version 6.1\n")
    assert console.trouble() is None


@pytest.mark.parametrize("is_longer", [False, True])
def test_a_file_that_was_begun_anew_is_read_from_its_beginning(path: Path, is_longer: bool) -> None:
    console = Console(path)
    _append(path, "Linux version 6.1\n" * 10)
    console.skip()
    path.write_text("Kernel panic - not syncing: new\n" + "more\n" * 100 * is_longer)
    assert console.trouble() == "its kernel panicked: new"


def test_complaints_are_those_that_may_tell_why_it_is_not_ready(path: Path) -> None:
    _append(
        path,
        "fine\n[FAILED] Failed to start Network\nfine\n"
        "[ 9.9] cloud-init[301]: 2026-01-01 - cc_runcmd.py[WARNING]: Failed to run\n"
        "[   10.0] tee: /srv/x: No space left on device\n"
        "[   11.0] tee: /srv/x: No space left on device\n" + "fine\n" * 30,
    )
    assert [line[:10] for line in Console(path).complaints()] == [
        *("[FAILED] F", "[ 9.9] clo", "[   10.0] ")
    ]


def test_a_console_that_only_the_daemon_can_read_is_read_by_it() -> None:
    content = b"Linux version 6.1\n"

    def read(offset: int, size: int) -> bytes:
        return content[offset:] if size < 0 else content[offset : offset + size]

    console = Console(read, poll=1.0)
    assert console.text() == "Linux version 6.1\n"
    console.skip()
    assert console.trouble() is None
    content += b"Kernel panic - not syncing: new\n"
    assert console.trouble() == "its kernel panicked: new"


def test_a_daemon_that_does_not_read_it_is_told_and_is_no_trouble() -> None:
    def read(offset: int, size: int) -> bytes:
        raise OSError("the daemon is away")

    console = Console(read)
    console.skip()
    assert console.trouble() is None
    assert console.text() == "(the console cannot be read: the daemon is away)"
