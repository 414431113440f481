"""Work that takes long tells a terminal how far it is, and nobody else."""

from __future__ import annotations

import pytest

MARKED = """
    import pytest

    @pytest.mark.topology("lan.yaml", backend="pulling")
    def test_it(lab):
        print("not to be seen")
"""
DEADLINE = 30
STEPS = [f"benchscale: pulling it: {layers} of 2 layers" for layers in range(3)]


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
@pytest.mark.parametrize("verbosity", [[], ["-v"]], ids=["plain", "verbose"])
def test_a_terminal_shows_it_on_one_line(suite, capture, verbosity):
    suite.makepyfile(MARKED)
    shown = suite.run_in_terminal(f"--capture={capture}", *verbosity, timeout=DEADLINE)
    lines = shown.split("\r\n")
    (line,) = [line for line in lines if "benchscale: pulling" in line]
    assert [step.strip() for step in line.split("\r") if step.strip()] == STEPS
    if capture != "no":
        after = next(filter(None, lines[lines.index(line) + 1 :]))
        assert after.startswith("test_a_terminal" if verbosity else ".")
    assert "1 passed" in shown
    assert ("not to be seen" in shown) == (capture == "no")


def test_a_terminal_shows_a_long_line_as_far_as_it_goes(suite):
    suite.makepyfile(MARKED)
    suite.makeconftest(suite.CONFTEST + "recording.STEP = 'x' * 100")
    shown = suite.run_in_terminal(timeout=DEADLINE)
    assert "benchscale: " + "x" * 67 in shown
    assert "x" * 68 not in shown


@pytest.mark.parametrize("arguments", [["-q"], ["-p", "no:terminal"], ["-n", "1"]])
def test_it_is_silent_where_it_was_not_asked_for(suite, arguments):
    suite.makepyfile(MARKED)
    assert "pulling" not in suite.run_in_terminal(*arguments, timeout=DEADLINE)


def test_what_is_no_terminal_gets_nothing_of_it(suite):
    suite.makepyfile(MARKED)
    result = suite.run_subprocess(timeout=DEADLINE)
    result.assert_outcomes(passed=1)
    assert "pulling" not in result.stdout.str()
