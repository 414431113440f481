"""Async tests: with no configuration at all, under pytest-asyncio and under anyio."""

from __future__ import annotations

import pytest

pytest.importorskip("trio")  # in here too, or pytester would import it anew in each run

ASYNC_TEST = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    async def test_it(lab):
        assert (await lab["server"].exec("echo hi")).stdout == "hi\\n"
"""


def test_an_async_test_runs_out_of_the_box(suite):
    suite.makepyfile(ASYNC_TEST)
    suite.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["auto", "strict"])
@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_tests_share_a_lab_in_every_mode_and_loop_scope_of_pytest_asyncio(suite, mode, scope):
    suite.makepyfile(
        """
        import asyncio
        import pytest
        import pytest_asyncio

        pytestmark = pytest.mark.topology("lan.yaml")
        loops = set()

        @pytest_asyncio.fixture
        async def greeting(lab):
            return (await lab["server"].exec("echo hi")).stdout

        @pytest.mark.parametrize("number", range(3))
        async def test_async(lab, greeting, number):
            loops.add(asyncio.get_running_loop())
            assert greeting == "hi\\n"
            assert (await lab["client"].exec(f"echo {number}")).stdout == f"{number}\\n"

        def test_sync(lab):
            assert lab.sync["server"].exec("true").ok
        """
    )
    suite.run(
        f"--asyncio-mode={mode}", "-o", f"asyncio_default_test_loop_scope={scope}"
    ).assert_outcomes(passed=4)
    assert suite.events() == ["open lan", "close lan"]


def test_a_loop_scope_of_the_users_own_is_respected(suite):
    suite.makepyfile(
        """
        import asyncio
        import pytest

        pytestmark = [pytest.mark.topology("lan.yaml"), pytest.mark.asyncio(loop_scope="module")]
        loops = set()

        @pytest.mark.parametrize("number", range(2))
        async def test_it(lab, number):
            loops.add(asyncio.get_running_loop())
            assert len(loops) == 1
        """
    )
    suite.run().assert_outcomes(passed=2)


@pytest.mark.parametrize("mode", ["mark", "auto"])
def test_a_test_of_anyio_is_left_to_anyio_on_each_of_its_backends(suite, mode, pytestconfig):
    if mode == "auto" and not hasattr(pytestconfig.option, "anyio_mode"):
        pytest.skip("this anyio has no auto mode")
    suite.makepyfile(
        test_it="""
        import sniffio
        import pytest

        pytestmark = [pytest.mark.topology("lan.yaml")] + MARK

        async def test_it(lab, anyio_backend_name):
            assert sniffio.current_async_library() == anyio_backend_name
            assert (await lab["server"].exec("echo hi")).stdout == "hi\\n"
        """.replace("MARK", "[pytest.mark.anyio]" if mode == "mark" else "[]")
    )
    result = suite.run("-v", *(["--anyio-mode=auto"] if mode == "auto" else []))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(["*test_it[[]asyncio]*", "*test_it[[]trio]*"])
    assert suite.events() == ["open lan", "close lan"]


def test_a_test_that_uses_anyio_backend_is_not_given_to_pytest_asyncio(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        @pytest.mark.topology("lan.yaml")
        async def test_mark(lab):
            import trio
            assert trio.lowlevel.current_task()

        @pytest.mark.topology("lan.yaml")
        async def test_fixture(lab, anyio_backend):
            import trio
            assert trio.lowlevel.current_task()
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_tests_of_both_share_a_session(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml")
        async def test_asyncio(lab):
            assert (await lab["server"].exec("true")).ok

        @pytest.mark.anyio
        @pytest.mark.topology("lan.yaml")
        async def test_anyio(lab):
            assert (await lab["server"].exec("true")).ok

        async def test_unmarked_is_not_ours():
            pass
        """
    )
    suite.run().assert_outcomes(passed=3, failed=1)


def test_an_async_test_says_what_it_lacks_where_pytest_asyncio_is_switched_off(suite):
    suite.makepyfile(ASYNC_TEST)
    result = suite.run("-p", "no:asyncio", "--strict-markers")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])
