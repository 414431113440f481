"""A container's log, fetched piece by piece."""

from __future__ import annotations

import struct
import threading

from pytest_benchscale.backends.docker.logs import LONGEST, Log, frames, with_times


def frame(second: int, text: str, stream: int = 1) -> bytes:
    payload = f"2025-01-31T12:00:{second:02}.000000001Z {text}".encode()
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def answer(since: int, lines: list[tuple[int, str]]) -> bytes:
    """Answer as the daemon does, for a log that began at 12:00:00 on that day."""
    begun = 1738324800
    return b"".join(frame(when, text) for when, text in lines if begun + when >= since)


def test_what_was_asked_for_twice_is_there_once():
    lines: list[tuple[int, str]] = []
    log = Log()
    for second in range(30):
        lines += [(second, f"{second} one\n"), (second, f"{second} two\n")]
        text = log.update(answer(log.since, lines))
        assert text == "".join(line for _, line in lines)
    assert log.since == 1738324800 + 27


def test_an_answer_that_comes_late_does_no_harm():
    lines = [(second, f"{second}\n") for second in range(20)]
    log = Log()
    late = answer(log.since, lines[:5])
    log.update(answer(log.since, lines))
    log.update(late)
    assert log.update(answer(log.since, lines)) == "".join(line for _, line in lines)


def test_many_may_ask_at_once():
    lines = [(second, f"{second}\n") for second in range(60)]
    log = Log()

    def ask() -> None:
        for count in range(60):
            log.update(answer(log.since, lines[: count + 1]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.update(answer(log.since, lines)) == "".join(line for _, line in lines)


def test_a_line_in_pieces_is_one_line():
    assert Log().update(frame(0, "begin ") + frame(0, "end\n")) == "begin end\n"


def test_no_more_than_the_newest_is_kept():
    log = Log()
    lines: list[tuple[int, str]] = []
    for second in range(40):
        lines += [(second, "x" * 1023 + "\n")] * 512
        text = log.update(answer(log.since, lines))
    assert text.startswith("[earlier lines are left out]\nxxx")
    assert LONGEST // 2 < len(text) < LONGEST + 100
    assert log._size <= 2 * LONGEST


def test_nothing_is_an_empty_text():
    assert Log().update(b"") == ""


def test_text_that_is_not_utf_8_does_no_harm():
    payload = b"2025-01-31T12:00:00.000000001Z \xff\n"
    assert Log().update(struct.pack(">BxxxL", 2, len(payload)) + payload) == "\ufffd\n"


def test_an_answer_that_was_cut_short_does_no_harm():
    whole = frame(0, "one\n") + frame(0, "two\n")
    assert next(frames(whole[:-30])).endswith(b"one\n")


def test_times_stay_when_they_are_wanted():
    assert with_times(frame(7, "line\n")) == "2025-01-31T12:00:07.000000001Z line\n"
