"""The options and the ini settings: what they do, which wins, and what a wrong one says."""

from __future__ import annotations

import json

import pytest

SHOW_BACKEND = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    def test_it(lab):
        print(f"<{lab.backend}>")
"""


class TestBackend:
    def test_the_option_replaces_the_backend_of_mark_and_file(self, suite):
        (suite.path / "own.yaml").write_text("backend: docker\nnodes: [{name: a}]\n")
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("own.yaml", backend="docker")
            def test_it(lab):
                assert lab.backend == "fake"
            """
        )
        suite.run("--benchscale-backend=fake").assert_outcomes(passed=1)

    def test_the_order_is_option_then_mark_then_file_then_ini(self, suite):
        (suite.path / "own.yaml").write_text("backend: docker\nnodes: [{name: a}]\n")
        suite.makeini("[pytest]\nbenchscale_backend = podman\n")
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("own.yaml", backend="fake")
            def test_mark(lab):
                assert lab.backend == "fake"

            @pytest.mark.topology("own.yaml")
            def test_file(lab):
                assert lab.backend == "docker"

            @pytest.mark.topology("lan.yaml")
            def test_ini(lab):
                assert lab.backend == "podman"
            """
        )
        suite.run().assert_outcomes(passed=3)

    def test_several_run_each_test_once_per_backend_with_its_name_in_the_id(self, suite):
        suite.makepyfile(
            test_it="""
            import pytest

            @pytest.mark.topology("lan.yaml", "wan.yaml")
            def test_two(lab):
                assert lab.backend in {"fake", "docker"}

            @pytest.mark.topology("lan.yaml")
            def test_one(lab):
                pass
            """
        )
        result = suite.run("-v", "--benchscale-backend", "fake, docker,fake")
        result.assert_outcomes(passed=6)
        for name in ("two[[]lan-fake]", "two[[]wan-docker]", "one[[]fake]", "one[[]docker]"):
            result.stdout.fnmatch_lines([f"test_it.py::test_{name} PASSED*"])
        assert len(suite.events()) == 8

    def test_the_backend_of_a_node_is_never_overridden(self, suite):
        (suite.path / "own.yaml").write_text("nodes: [{name: a, backend: docker}]\n")
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("own.yaml")
            def test_it(lab):
                assert lab["a"].backend == "docker"
            """
        )
        suite.run("--benchscale-backend=fake").assert_outcomes(passed=1)

    def test_auto_says_after_collection_what_it_chose_and_why(self, suite):
        suite.makeini("")
        suite.makepyfile(SHOW_BACKEND)
        result = suite.run()
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(
            ["collected 1 item", "benchscale: lan on local *: the cheapest that can run*"]
        )
        assert "benchscale:" not in str(suite.run("-q").stdout)

    def test_nothing_is_said_or_probed_when_no_test_is_marked(self, suite):
        suite.makeini("")
        suite.makepyfile("def test_it(): pass")
        result = suite.run()
        result.assert_outcomes(passed=1)
        assert "benchscale:" not in str(result.stdout)
        assert suite.events("probe") == []

    def test_nothing_is_probed_for_collect_only(self, suite):
        suite.makeini("")
        suite.makepyfile(SHOW_BACKEND)
        suite.run("--collect-only").stdout.fnmatch_lines(["*<Function test_it>*"])
        assert suite.events("probe") == []

    def test_topologies_of_one_choice_share_a_line(self, suite):
        suite.makeini("")
        suite.makepyfile(SHOW_BACKEND.replace('"lan.yaml"', '"lan.yaml", "wan.yaml"'))
        suite.run().stdout.fnmatch_lines(["benchscale: lan, wan on local *: the cheapest *"])

    def test_auto_that_finds_nothing_says_so_and_the_tests_tell_why(self, suite):
        suite.makeini("")
        suite.makeconftest(suite.CONFTEST + "recording.only('absent')\n")
        suite.makepyfile(SHOW_BACKEND)
        result = suite.run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [
                "benchscale: lan: backend 'auto' is not usable: no backend can run *",
                "absent: its daemon does not answer (start the daemon)",
            ]
        )
        result = suite.run("--benchscale-missing=skip")
        result.assert_outcomes(skipped=1)

    def test_what_is_declared_and_not_enforced_is_said_after_collection(self, suite):
        (suite.path / "own.yaml").write_text(
            "metadata: {name: big}\nnodes: [{name: a, memory_mb: 64}]\n"
        )
        suite.makepyfile(SHOW_BACKEND.replace("lan.yaml", "own.yaml"))
        suite.run().stdout.fnmatch_lines(
            ["benchscale: big on fake: memory limits are not enforced"]
        )


class TestMissing:
    def test_a_missing_backend_fails_by_default_once_in_full(self, suite):
        suite.makepyfile(SHOW_BACKEND + SHOW_BACKEND.replace("test_it", "test_again"))
        result = suite.run("--benchscale-backend=absent")
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines(
            [
                "backend 'absent' is not usable: its daemon does not answer",
                "What to do: start the daemon",
                "*lab 'lan' on backend 'absent' is not there; see the error of *test_it*",
            ]
        )
        assert str(result.stdout).count("What to do: start the daemon") == 1

    def test_skip_skips_with_the_reason_and_counts_in_the_summary(self, suite):
        suite.makepyfile(SHOW_BACKEND + SHOW_BACKEND.replace("test_it", "test_again"))
        result = suite.run("--benchscale-backend=absent,fake", "--benchscale-missing=skip")
        result.assert_outcomes(skipped=2, passed=2)
        result.stdout.fnmatch_lines(
            [
                "*= benchscale: skipped for want of a backend or a machine =*",
                "2 x backend 'absent' is not usable: its daemon does not answer*start the daemon",
            ]
        )

    def test_a_machine_that_is_not_there_is_missing_as_a_backend_is(self, suite):
        suite.makepyfile(SHOW_BACKEND + SHOW_BACKEND.replace("test_it", "test_again"))
        suite.run("--benchscale-backend=deserted").assert_outcomes(errors=2)
        result = suite.run("--benchscale-backend=deserted", "--benchscale-missing=skip")
        result.assert_outcomes(skipped=2)
        result.stdout.fnmatch_lines(["2 x there is no machine 'test1'"])

    def test_skip_does_not_hide_a_lab_that_fails(self, suite):
        suite.makepyfile(SHOW_BACKEND)
        suite.run("--benchscale-backend=failing", "--benchscale-missing=skip").assert_outcomes(
            errors=1
        )


class TestKeep:
    def test_a_backend_that_cannot_keep_is_a_usage_error(self, suite):
        suite.makepyfile(SHOW_BACKEND)
        for keep in ("failed", "always"):
            result = suite.run(f"--benchscale-keep={keep}")
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            result.stderr.fnmatch_lines(
                [f"ERROR: backend 'fake' does not support keeping a lab*--benchscale-keep={keep}*"]
            )

    def test_never_is_the_default(self, suite):
        suite.makepyfile(SHOW_BACKEND)
        suite.run("--benchscale-keep=never").assert_outcomes(passed=1)
        assert suite.events() == ["open lan", "close lan"]


class TestArtifacts:
    def test_each_lab_leaves_its_topology_logs_and_commands(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            def test_it(lab):
                lab.sync["server"].exec("echo hello")
            """
        )
        suite.run("--benchscale-artifacts=out/here").assert_outcomes(passed=1)
        (place,) = (suite.path / "out" / "here").iterdir()
        assert place.name.startswith("lan-")
        assert json.loads((place / "topology.json").read_text())["backend"] == "fake"
        assert "server: echo hello" in (place / "commands.log").read_text()
        assert {log.name for log in (place / "nodes").iterdir()} == {"server.log", "client.log"}


class TestTheOthers:
    def test_the_timeout_scale_and_the_images_reach_the_lab(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            def test_it(lab):
                assert lab.options.timeout_scale == 2.5
                assert lab.options.images == {"ubuntu": "host", "b": "c=d"}
            """
        )
        suite.run(
            "--benchscale-timeout-scale=2.5",
            "--benchscale-image=ubuntu=host",
            "--benchscale-image",
            "b=c=d",
        ).assert_outcomes(passed=1)

    def test_conditions_off_runs_what_the_backend_cannot_slow_down_and_says_so(self, suite):
        (suite.path / "slow.yaml").write_text(
            "metadata: {name: slow}\nnetwork: {name: lan, preset: satellite}\nnodes: [{name: a}]\n"
        )
        suite.makepyfile(SHOW_BACKEND.replace("lan.yaml", "slow.yaml"))
        suite.run("--benchscale-backend=docker").assert_outcomes(errors=1)
        result = suite.run("--benchscale-backend=docker", "--benchscale-conditions=off")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["benchscale: *network conditions off*"])
        suite.run("--benchscale-backend=docker", "--benchscale-conditions=enforce").assert_outcomes(
            errors=1
        )

    def test_prepared_off_reaches_the_lab_and_is_told(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            def test_it(lab):
                assert not lab.options.prepared
            """
        )
        result = suite.run("--benchscale-prepared=off")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["benchscale: *no prepared states*"])
        suite.run("--benchscale-prepared=use").assert_outcomes(failed=1)

    def test_preset_libraries_lend_their_presets(self, suite):
        (suite.path / "presets.yaml").write_text("presets: {moon: {latency_ms: 1300}}\n")
        (suite.path / "far.yaml").write_text(
            "network: {name: lan, preset: moon}\nnodes: [{name: a}]\n"
        )
        suite.makepyfile(SHOW_BACKEND.replace("lan.yaml", "far.yaml"))
        suite.run("--benchscale-conditions=off").assert_outcomes(errors=1)
        suite.makeini("[pytest]\nbenchscale_backend = fake\nbenchscale_presets = presets.yaml\n")
        suite.run("--benchscale-conditions=off").assert_outcomes(passed=1)

    def test_the_header_shows_what_was_asked_for(self, suite):
        suite.run(
            "--benchscale-backend=fake,docker",
            "--benchscale-missing=skip",
            "--benchscale-timeout-scale=3",
            "--benchscale-image=a=b",
        ).stdout.fnmatch_lines(
            ["benchscale: backend fake, docker; a missing backend skips; timeouts x 3; image a=b"]
        )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--benchscale-backend=fakr", "'fakr'*did you mean 'fake'[?]*"),
        ("--benchscale-backend=", "no backend is named in *"),
        ("--benchscale-backend=fake,", "no backend is named in *"),
        ("--benchscale-missing=skp", "'skp' is none of fail, skip; did you mean 'skip'[?]"),
        ("--benchscale-keep=yes", "'yes' is none of never, failed, always"),
        ("--benchscale-keep-for=8", "'8' is not a time of up to a year, such as 30m, 8h or 2d"),
        ("--benchscale-keep-for=0h", "'0h' is not a time of up to a year*"),
        ("--benchscale-keep-for=1000d", "'1000d' is not a time of up to a year*"),
        ("--benchscale-conditions=on", "'on' is none of enforce, off"),
        ("--benchscale-prepared=of", "'of' is none of use, off; did you mean 'off'?"),
        ("--benchscale-timeout-scale=fast", "'fast' is not a number above 0"),
        ("--benchscale-timeout-scale=0", "'0' is not a number above 0"),
        ("--benchscale-timeout-scale=nan", "'nan' is not a number above 0"),
        ("--benchscale-timeout-scale=inf", "'inf' is not a number above 0"),
        ("--benchscale-image=ubuntu", "'ubuntu' is not NAME=REF*"),
        ("--benchscale-image==host", "'=host' is not NAME=REF*"),
        ("--benchscale-artifacts=lan.yaml", "'lan.yaml' cannot be a directory"),
        ("--benchscale-artifacts=", "'' cannot be a directory"),
    ],
)
def test_a_wrong_option_is_a_usage_error_in_one_line(suite, option, message):
    suite.makepyfile("def test_it(): pass")
    result = suite.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {option.partition('=')[0]}: {message}"])
    assert len(str(result.stderr).strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("benchscale_backend = fakr", "benchscale_backend: 'fakr'*did you mean 'fake'[?]*"),
        ("benchscale_presets = none.yaml", "benchscale_presets: there is no file */none.yaml"),
    ],
)
def test_a_wrong_ini_setting_is_a_usage_error_in_one_line(suite, setting, message):
    suite.makeini(f"[pytest]\n{setting}\n")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert len(str(result.stderr).strip().splitlines()) == 1


def test_the_options_are_in_the_help(suite):
    result = suite.run("--help")
    for name in (
        *("backend", "missing", "keep", "artifacts", "timeout-scale", "image", "conditions"),
        *("prepared", "keep-for", "reuse"),
    ):
        result.stdout.fnmatch_lines([f"  --benchscale-{name}*"])
    for name in ("backend", "topology_path", "presets"):
        result.stdout.fnmatch_lines([f"  benchscale_{name} (*"])
