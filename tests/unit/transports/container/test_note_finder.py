"""Notes are found wherever a stream is cut, and nothing else is lost."""

from __future__ import annotations

import random

import pytest

from pytest_benchscale.transports.shell.streams import NoteFinder

WORD = b"benchscale-0bb0:"


@pytest.mark.parametrize("seed", range(50))
def test_however_the_stream_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [WORD[:5], b"b", b"be", b"text\n", b"\n", b"\0\xff", WORD[:-1], b"benchbench"]
    stream, expected_data = b"", b""
    expected_notes: list[bytes] = []
    for number in range(30):
        piece = chance.choice(pieces)
        stream += piece + b"."
        expected_data += piece + b"."
        if chance.random() < 0.3:
            stream += WORD + b"p%d\n" % number
            expected_notes.append(b"p%d" % number)
    data: list[bytes] = []
    notes: list[bytes] = []
    finder = NoteFinder(WORD, data.append, notes.append)
    while stream:
        size = chance.randint(1, 20)
        finder.feed(stream[:size])
        stream = stream[size:]
    assert b"".join(data) == expected_data
    assert notes == expected_notes


def test_what_cannot_be_a_note_is_not_held_back() -> None:
    data: list[bytes] = []
    finder = NoteFinder(WORD, data.append, lambda note: None)
    finder.feed(b"a prompt> ")
    assert b"".join(data) == b"a prompt> "
