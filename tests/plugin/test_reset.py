"""`reset="test"`: each test gets the lab as it was when it was first ready."""

from __future__ import annotations

import pytest

THREE = """
    import pytest

    pytestmark = pytest.mark.topology("lan.yaml", backend="{backend}", reset="test")

    def is_new(lab):
        new = not lab.sync["server"].exec("test -e /tmp/old").ok
        lab.sync["server"].write_text("/tmp/old", "")
        return new

    def test_first(lab):
        assert is_new(lab)

    def test_second(lab):
        assert is_new(lab)
        assert {second}

    def test_third(lab):
        assert is_new(lab)
"""


def suite_of(suite, backend="lasting", second="True"):
    suite.makepyfile(THREE.format(backend=backend, second=second))


def test_each_test_gets_the_lab_as_it_was_and_it_is_built_once(suite):
    suite_of(suite)
    suite.run().assert_outcomes(passed=3)
    assert suite.events() == ["open lan", "close lan"]
    assert suite.events("resetting").count("resetting server") == 2  # not before the first


def test_a_lab_is_reset_also_when_a_test_has_failed(suite):
    suite_of(suite, second="False")
    suite.run().assert_outcomes(passed=2, failed=1)
    assert suite.events() == ["open lan", "close lan"]


def test_a_reset_that_fails_is_that_tests_error_and_the_next_gets_a_new_lab(suite):
    suite_of(suite, backend="once")
    result = suite.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*reset of node 'server' failed: *its disk is gone*"])
    assert suite.events() == ["open lan", "close lan"] * 2


def test_tests_without_reset_use_another_lab(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml", backend="lasting", reset="test")
        def test_one(lab):
            lab.sync["server"].write_text("/tmp/old", "")

        @pytest.mark.topology("lan.yaml", backend="lasting")
        def test_two(lab):
            assert not lab.sync["server"].exec("test -e /tmp/old").ok
            lab.sync["server"].write_text("/tmp/old", "")

        @pytest.mark.topology("lan.yaml", backend="lasting", reset=None)
        def test_three(lab):
            assert lab.sync["server"].exec("test -e /tmp/old").ok

        @pytest.mark.topology("lan.yaml", backend="lasting", reset="test")
        def test_four(lab):
            assert not lab.sync["server"].exec("test -e /tmp/old").ok
        """
    )
    suite.run().assert_outcomes(passed=4)
    assert suite.events() == ["open lan", "close lan"] * 2


def test_a_test_resets_by_hand(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml", backend="lasting", reset="test")
        def test_one(lab):
            lab.sync["server"].write_text("/tmp/old", "")
            lab.sync.reset()
            assert not lab.sync["server"].exec("test -e /tmp/old").ok
        """
    )
    suite.run().assert_outcomes(passed=1)


def test_a_fixture_sees_the_lab_after_the_reset(suite):
    suite.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.topology("lan.yaml", backend="lasting", reset="test")

        @pytest.fixture
        def site(lab):
            assert not lab.sync["server"].exec("test -e /srv/site").ok
            lab.sync["server"].write_text("/srv/site", "")
            return lab

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(site, number):
            assert site.sync["server"].exec("test -e /srv/site").ok
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_a_backend_that_cannot_reset_is_a_usage_error(suite):
    suite_of(suite, backend="fake")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: backend 'fake' does not support resetting nodes*leave reset=*"]
    )
    assert suite.events() == []


@pytest.mark.parametrize("value", ["'module'", "True", "1"])
def test_a_reset_that_cannot_be_meant_is_an_error(suite, value):
    suite.makepyfile(
        f"""
        import pytest

        @pytest.mark.topology("lan.yaml", reset={value})
        def test_it(lab):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f'*reset is "test" (*) or None, not {value}'])
