"""`--benchscale-keep`: which labs stay, in what state, for how long, and what the user is told."""

from __future__ import annotations

import time

import pytest

from pytest_benchscale.lab.ledger import Ledger, Standing

TWO = """
    import pytest

    pytestmark = pytest.mark.topology("lan.yaml", backend="{backend}")

    def test_one(lab):
        lab.sync["server"].write_text("/tmp/one", "")
        assert {one}

    def test_two(lab):
        here = lab.sync["server"].exec("test -e /tmp/one").ok
        lab.sync["server"].write_text("/tmp/two", "")
        assert {two}
"""


def suite_of(suite, one="True", two="True", backend="lasting"):
    suite.makepyfile(TWO.format(backend=backend, one=one, two=two))


def kept():
    """Return the labs that the ledger knows as kept."""
    labs = [*Ledger().labs()]
    assert {found.standing for found in labs} <= {Standing.KEPT}
    return labs


class TestFailed:
    def test_a_failed_tests_lab_stays_as_it_was_and_the_next_test_gets_another(self, suite):
        suite_of(suite, one="False", two="not here")
        result = suite.run("--benchscale-keep=failed")
        result.assert_outcomes(passed=1, failed=1)
        assert suite.events("open", "keep", "close") == [
            *("open lan", "keep lan"),
            *("open lan", "close lan"),
        ]
        (found,) = kept()
        assert found.kept.dirty
        assert not found.kept.reuse
        assert found.kept.until == pytest.approx(time.time() + 8 * 3600, abs=60)
        result.stdout.fnmatch_lines(
            [
                "*benchscale: labs that were kept*",
                "lab 'lan' on 'lasting', until ????-??-?? ??:??; a test of it failed:",
                f"  benchscale shell {found.lab_id} server",
                f"  benchscale shell {found.lab_id} client",
                f"  benchscale down {found.lab_id}",
            ]
        )

    def test_what_is_kept_is_told_also_when_little_is_said(self, suite):
        suite_of(suite, one="False")
        result = suite.run("--benchscale-keep=failed", "-q")
        result.stdout.fnmatch_lines([f"  benchscale down {kept()[0].lab_id}"])

    def test_a_lab_whose_tests_passed_is_taken_down(self, suite):
        suite_of(suite, two="here")
        suite.run("--benchscale-keep=failed").assert_outcomes(passed=2)
        assert kept() == []

    @pytest.mark.parametrize("place", ["setup", "teardown"])
    @pytest.mark.parametrize("how", ["assert False", "pytest.fail('no')"])
    def test_a_fixture_that_fails_counts_also_in_the_last_test(self, suite, place, how):
        lines = ["pass", "yield", "pass"]
        lines[0 if place == "setup" else 2] = how
        body = "\n    ".join(lines)
        (suite.path / "test_it.py").write_text(
            "import pytest\n\n@pytest.fixture\ndef frail(lab):\n"
            f"    {body}\n\n"
            '@pytest.mark.topology("lan.yaml", backend="lasting")\ndef test_it(frail):\n    pass\n'
        )
        suite.run("--benchscale-keep=failed").assert_outcomes(
            errors=1, passed=int(place == "teardown")
        )
        assert [found.kept.dirty for found in kept()] == [True]

    def test_how_long_is_the_users_to_say(self, suite):
        suite_of(suite, one="False")
        suite.run("--benchscale-keep=failed", "--benchscale-keep-for=30m")
        assert kept()[0].kept.until == pytest.approx(time.time() + 1800, abs=60)

    def test_thirty_failing_tests_leave_five_labs(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("wan.yaml", backend="lasting")
            @pytest.mark.parametrize("number", range(30))
            def test_it(lab, number):
                assert False
            """
        )
        result = suite.run("--benchscale-keep=failed")
        result.assert_outcomes(failed=30)
        assert len(kept()) == 5
        assert suite.events().count("open wan") == 6
        result.stdout.fnmatch_lines(["a session keeps 5 labs at most: 1 more was taken down"])

    def test_where_two_labs_collide_the_tests_go_on_in_the_one(self, suite):
        suite_of(suite, one="False", two="here", backend="sharing")
        result = suite.run("--benchscale-keep=failed")
        result.assert_outcomes(passed=1, failed=1)
        assert len(kept()) == 1
        line = "*; a test of it failed, and further ones used it (its subnets are declared, *):"
        result.stdout.fnmatch_lines([line])

    def test_a_lab_that_is_to_be_reset_is_left_and_the_next_is_new(self, suite):
        suite_of(suite, one="False", two="not here")
        path = next(suite.path.glob("test_*.py"))
        path.write_text(path.read_text().replace('"lasting"', '"lasting", reset="test"'))
        suite.run("--benchscale-keep=failed").assert_outcomes(passed=1, failed=1)
        assert len(kept()) == 1
        assert suite.events("resetting") == []

    def test_the_workers_tell_of_theirs(self, suite):
        pytest.importorskip("xdist")
        suite_of(suite, one="False", two="False")
        result = suite.run("-n2", "--benchscale-keep=failed")
        result.assert_outcomes(failed=2)
        for found in kept():
            result.stdout.fnmatch_lines_random([f"  benchscale down {found.lab_id}"])
        assert len(kept()) == 2

    def test_a_lab_that_cannot_be_kept_is_taken_down_and_that_is_told(self, suite):
        suite_of(suite, one="False", two="not here")
        suite.makeconftest(
            suite.CONFTEST
            + "from pytest_benchscale.backends import registry\n"
            + 'registry.get("lasting").script.fail("keep", OSError(28, "no room"))\n'
        )
        result = suite.run("--benchscale-keep=failed")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["*not taken down cleanly*", "keep failed: *no room"])
        assert kept() == []
        assert suite.events() == ["open lan", "close lan"] * 2


class TestAlways:
    def test_every_lab_stays(self, suite):
        suite_of(suite, two="here")
        result = suite.run("--benchscale-keep=always")
        result.assert_outcomes(passed=2)
        (found,) = kept()
        assert not found.kept.dirty
        result.stdout.fnmatch_lines([f"  benchscale shell {found.lab_id} server"])
