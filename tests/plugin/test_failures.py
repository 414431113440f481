"""What a failing test shows, and what it does not."""

from __future__ import annotations

import pytest

TWO_TESTS = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    def test_first(lab):
        pass

    @pytest.mark.topology("lan.yaml")
    async def test_second(lab):
        pass
"""


class TestBuilds:
    def test_a_failed_build_is_shown_once_and_then_in_one_line(self, suite):
        suite.makepyfile(test_it=TWO_TESTS)
        result = suite.run("--benchscale-backend=failing")
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines(
            [
                "*ERROR at setup of test_first*",
                "*node 'server'*no room*",
                "*ERROR at setup of test_second*",
                "lab 'lan' on backend 'failing' is not there; see *test_it.py::test_first",
                "*short test summary*",
            ]
        )
        text = str(result.stdout)
        assert text.partition("short test summary")[0].count("no room") == 1
        assert "Traceback" not in text
        assert not any(name in text for name in ("plugin.py", "session.py", "reporting.py"))
        assert suite.events().count("open lan") == 1

    def test_a_failed_build_is_not_tried_again_after_another_lab(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml", backend="failing")
            def test_one(lab): pass

            @pytest.mark.topology("wan.yaml")
            def test_two(lab): pass

            @pytest.mark.topology("lan.yaml", backend="failing")
            def test_three(lab): pass
            """
        )
        suite.makeconftest(
            suite.CONFTEST
            + "\n\n@pytest.hookimpl(trylast=True)\ndef pytest_collection_modifyitems(items):\n"
            "    items.sort(key=lambda item: item.location[1])\n"
        )
        suite.run().assert_outcomes(errors=2, passed=1)
        assert suite.events().count("open lan") == 1

    def test_what_the_backend_cannot_run_says_so_and_what_to_do(self, suite):
        (suite.path / "vm.yaml").write_text("nodes: [{name: a, disk_gb: 5}]\n")
        suite.makepyfile(TWO_TESTS.replace("lan.yaml", "vm.yaml"))
        result = suite.run()
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines(["*does not support disk sizes", "What to do: *"])


class TestErrorsInTests:
    def test_an_error_shows_the_users_own_line_and_no_frame_of_ours(self, suite):
        suite.makepyfile(
            """
            import pytest

            pytestmark = pytest.mark.topology("lan.yaml")

            def test_sync(lab):
                lab.sync["server"].exec("false", check=True)

            async def test_async(lab):
                await lab["server"].exec("false", check=True)

            async def test_process(lab):
                async with lab["server"].process("cat", stdin=True) as cat:
                    await cat.wait_for_line("never", timeout=0.01)

            def test_lookup(lab):
                lab["servr"]

            async def test_check(lab):
                result = await lab["server"].exec("false")
                result.check()
            """
        )
        result = suite.run()
        result.assert_outcomes(failed=5)
        result.stdout.fnmatch_lines(
            [
                '>*lab.sync[[]"server"].exec("false", check=True)',
                "E*CommandFailed: command failed with exit code 1 on node 'server': false",
                '>*await lab[[]"server"].exec("false", check=True)',
                "E*CommandFailed: command failed with exit code 1 on node 'server': false",
                '>*await cat.wait_for_line("never", timeout=0.01)',
                "E*WaitTimeout: waited 0.01 s on node 'server' for *",
                '>*lab[[]"servr"]',
                "E*lab 'lan' has no node 'servr'; did you mean 'server'[?]",
                ">*result.check()",
                "E*CommandFailed: *",
            ]
        )
        text = str(result.stdout)
        for frame in (
            "portal.py",
            "node.py",
            "lab.py",
            "anyio",
            "contextlib",
            "threading",
            "plugin.py",
        ):
            assert frame not in text.replace("plugins:", "").partition("= FAILURES =")[2], frame

    def test_errors_in_groups_and_with_causes_show_no_frame_of_ours_either(self, suite):
        suite.makepyfile(
            """
            import pytest

            pytestmark = pytest.mark.topology("lan.yaml")

            async def test_group(lab):
                errors = []
                for node in lab.nodes.values():
                    try:
                        await node.exec("false", check=True)
                    except Exception as error:
                        errors.append(error)
                raise ExceptionGroup("both", errors)

            def test_cause(lab):
                lab.sync["server"].read_text("/none")

            def test_context(lab):
                try:
                    lab.sync["server"].exec("exit 9", check=True)
                finally:
                    assert 1 == 2
            """
        )
        result = suite.run()
        result.assert_outcomes(failed=3)
        result.stdout.fnmatch_lines_random(
            [
                "*exit code 1 on node 'server'*",
                "*exit code 1 on node 'client'*",
                "E *: /none",
                "E *exit code 9 on node 'server'*",
                "E *assert 1 == 2",
            ]
        )
        text = str(result.stdout)
        assert "portal.py" not in text
        assert "direct cause" not in text
        assert text.lower().count("during handling") == 1  # of the test's own finally

    def test_the_tests_of_the_contract_suite_are_not_hidden(self, suite):
        suite.makepyfile(
            """
            from pytest_benchscale import LabError, testing

            def test_it():
                raise LabError("it is broken")

            test_it.__code__ = test_it.__code__.replace(co_filename=testing.__file__)
            """
        )
        result = suite.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E *LabError: it is broken"])
        assert "_pytest" not in str(result.stdout)

    def test_full_trace_shows_everything(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            def test_it(lab):
                lab.sync["server"].exec("false", check=True)
            """
        )
        suite.run("--full-trace").stdout.fnmatch_lines(["*portal.py:*"])


class TestSections:
    def test_a_failed_test_shows_its_commands_with_exit_code_and_duration(self, suite):
        suite.makepyfile(
            """
            import pytest

            pytestmark = pytest.mark.topology("lan.yaml")

            def test_before(lab):
                lab.sync["server"].exec("echo before")

            def test_it(lab):
                lab.sync["server"].exec("echo now")
                lab.sync["client"].exec("exit 7")
                assert False
            """
        )
        result = suite.run()
        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(
            [
                "*- benchscale: commands in lab 'lan' on 'fake' -*",
                "*server: echo now  [[]exit code 0, 0.* s]",
                "*client: exit 7  [[]exit code 7, 0.* s]",
            ],
            consecutive=True,
        )
        assert "echo before" not in str(result.stdout)

    def test_a_failed_test_shows_the_end_of_the_nodes_logs(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml", backend="talking")
            def test_it(lab):
                assert False
            """
        )
        result = suite.run()
        result.stdout.fnmatch_lines(
            [
                "*- benchscale: end of the log of node 'server' -*",
                "... 10 before ...",
                "server says 10",
                "server says 29",
            ]
        )

    def test_a_passed_test_shows_none_of_it(self, suite):
        suite.makepyfile(TWO_TESTS)
        assert "- benchscale:" not in str(suite.run("-rA").stdout)

    def test_a_failed_test_without_a_lab_shows_none_of_it(self, suite):
        suite.makepyfile("def test_it():\n    assert False\n")
        assert "- benchscale:" not in str(suite.run().stdout)


class TestTeardown:
    def test_errors_are_told_beside_the_results_and_fail_the_run(self, suite):
        suite.makepyfile(TWO_TESTS)
        result = suite.run("--benchscale-backend=sticky")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            [
                "*= benchscale: not taken down cleanly =*",
                "lab 'lan' on 'sticky' was not taken down cleanly",
                "*stuck*server*",
                "*= 2 passed* =*",
            ]
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_an_error_is_no_failure_of_the_next_labs_test(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml", backend="sticky")
            def test_sticky(lab):
                pass

            @pytest.mark.topology("wan.yaml")
            def test_next(lab):
                assert lab.is_up
            """
        )
        result = suite.run()
        result.assert_outcomes(passed=2)
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_an_error_does_not_hide_a_worse_exit_code(self, suite):
        suite.makepyfile(TWO_TESTS + "        pytest.exit('enough', returncode=77)\n")
        result = suite.run("--benchscale-backend=sticky")
        assert result.ret == 77
