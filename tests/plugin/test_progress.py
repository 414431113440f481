"""Work that takes long shows a terminal how far it is, and nobody else."""

from __future__ import annotations

import re

import pytest

from pytest_benchscale.progress import Board, _cut

MARKED = """
    import pytest

    @pytest.mark.topology("lan.yaml", backend="pulling")
    def test_it(lab):
        print("not to be seen")
"""
SLOWLY = """
import os
from pytest_benchscale import progress
progress.AFTER, progress.EVERY = 0.05, 0.01
recording.PULL_SECONDS = 0.2
script = recording.registry.get("pulling").script
"""
DEADLINE = 60
TITLE = "benchscale: lan on pulling"
DONE = re.compile(re.escape(TITLE) + r": up after \d+\.\d s *")


def lines_of(shown):
    """Return what stood on each line of the terminal, one after the other."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    return [[state.strip() for state in line.split("\r")] for line in plain.split("\r\n")]


@pytest.fixture
def slow(suite):
    suite.makepyfile(MARKED)
    suite.makeconftest(suite.CONFTEST + SLOWLY)
    return suite


@pytest.mark.parametrize("capture", ["fd", "no"])
@pytest.mark.parametrize("verbosity", [[], ["-v"]], ids=["plain", "verbose"])
def test_a_terminal_shows_it_on_one_line_that_leaves_how_long_it_took(slow, capture, verbosity):
    shown = slow.run_in_terminal(f"--capture={capture}", *verbosity, timeout=DEADLINE)
    lines = lines_of(shown)
    (line,) = [line for line in lines if line[-1].startswith(TITLE)]
    for layers in range(3):
        assert any(state.startswith(TITLE) and f"{layers} of 2 layers" in state for state in line)
    assert DONE.fullmatch(line[-1])
    if capture != "no":
        after = next(filter(any, lines[lines.index(line) + 1 :]))
        assert after[0].startswith("test_a_terminal" if verbosity else ".")
    assert "1 passed" in shown
    assert ("not to be seen" in shown) == (capture == "no")


def test_the_step_of_each_node_and_its_seconds_are_shown(slow):
    (slow.path / "lan.yaml").write_text(
        """
metadata: {name: lan}
nodes:
  - {name: server, setup: ["true", "sleep 0.4"], wait_for: [{file: /ready}]}
  - {name: client, depends_on: [server]}
  - {name: quick}
"""
    )
    slow.makeconftest(
        slow.CONFTEST + SLOWLY + "script.delay('create_node server', 0.4)\n"
        "script.delay('delete_node client', 0.4)\n"
    )
    (slow.path / "lan.yaml").write_text(
        (slow.path / "lan.yaml").read_text().replace("sleep 0.4", "sleep 0.4; touch /ready")
    )
    shown = "\n".join("\n".join(line) for line in lines_of(slow.run_in_terminal(timeout=DEADLINE)))
    assert re.search(r"; server create \d s", shown)
    assert re.search(r"1 ready; server setup\[1\] \d s, client waits", shown)
    assert re.search(r"lan going down: \d s; client delete \d s", shown)
    assert "lan going down: gone after" in shown


def test_a_failure_ends_it_and_is_told_on_lines_of_its_own(slow):
    slow.makeconftest(
        slow.CONFTEST + SLOWLY + "script.fail('create_node server', OSError(28, 'no room'))\n"
    )
    lines = lines_of(slow.run_in_terminal(timeout=DEADLINE))
    finals = [line[-1] for line in lines]
    assert any(re.match(re.escape(TITLE) + ": failed after", final) for final in finals)
    assert any("no room" in final and "lan on" not in final for final in finals)


def test_what_is_done_in_a_moment_is_not_shown(suite):
    suite.makepyfile(MARKED)
    suite.makeconftest(suite.CONFTEST + SLOWLY + "progress.AFTER = 30\n")
    assert "lan on" not in suite.run_in_terminal(timeout=DEADLINE)


def test_a_long_line_is_cut_at_the_terminals_width(slow):
    slow.makeconftest(slow.CONFTEST + SLOWLY + "recording.STEP = 'x' * 100\n")
    lines = lines_of(slow.run_in_terminal(timeout=DEADLINE))
    assert max(len(state) for line in lines for state in line if "xx" in state) == 79


@pytest.mark.parametrize("color", ["yes", "no"])
def test_it_has_the_colours_that_were_asked_for(slow, color):
    shown = slow.run_in_terminal(f"--color={color}", timeout=DEADLINE)
    assert "lan on" in shown
    assert ("\x1b" in shown) == (color == "yes")
    assert ("\x1b[36mbenchscale: \x1b[0m" in shown) == (color == "yes")


@pytest.mark.parametrize("arguments", [["-q"], ["-p", "no:terminal"], ["-n", "1"]])
def test_it_is_silent_where_it_was_not_asked_for(slow, arguments):
    assert "lan on" not in slow.run_in_terminal(*arguments, timeout=DEADLINE)


@pytest.mark.parametrize("setting", [("CI", "true"), ("TERM", "dumb")])
def test_it_is_silent_where_nobody_looks(slow, monkeypatch, setting):
    monkeypatch.setenv(*setting)
    assert "lan on" not in slow.run_in_terminal(timeout=DEADLINE)


def test_what_is_no_terminal_gets_nothing_of_it(slow):
    result = slow.run_subprocess(timeout=DEADLINE)
    result.assert_outcomes(passed=1)
    assert "lan on" not in result.stdout.str()


def test_a_board_puts_what_a_backend_says_of_a_node_in_place_of_its_step():
    board = Board("up")
    board.began(None, "open")
    board.ended(None, "open")
    board.began("vm", "create")
    board.note("vm: waits for its sshd")
    board.note("pulling: 1 of 2 layers")
    assert str(board) == "up: 0 s; pulling: 1 of 2 layers; vm waits for its sshd 0 s"
    board.ended("vm", "create")
    board.began("vm", "ready")
    board.note("late: a node that is nowhere")
    assert str(board) == "up: 0 s; late: a node that is nowhere; 1 ready"


def test_a_line_is_cut_by_the_columns_that_it_takes():
    assert _cut("日本語", 5) == ("日本", 4)
    assert _cut("a\x1b[2Jb\tc", 99) == ("a [2Jb c", 8)
    assert _cut("e\u0301e", 1) == ("e\u0301", 1)
