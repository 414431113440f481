"""Failures that explain themselves: report sections, `failure.json`, and the properties of results."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET

import pytest

SETUP_FAILS = """
metadata: {name: broken}
network: {name: lan, subnet: 10.1.0.0/24}
nodes:
  - {name: server, setup: ["echo first", "log the reason; exit 3"]}
  - {name: client, depends_on: [server]}
"""
SECRET = """
metadata: {name: secret}
nodes:
  - name: server
    env: {TOKEN: do-not-tell}
    ssh: {user: admin, password: swordfish}
"""
FAILS = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    def test_it(lab):
        lab.sync["server"].exec("log hello; exit 7")
        assert 1 == 2
"""
DEADLINE = 60


def told(suite, pattern="*", directory="out"):
    """Return the contents of the one `failure.json` of a directory, and where it is."""
    (place,) = (suite.path / directory / "failures").glob(pattern)
    return json.loads((place / "failure.json").read_text()), place


def section(result, title):
    """Return the lines of a report section."""
    lines = result.outlines
    (start,) = [number for number, line in enumerate(lines) if f"- benchscale: {title} -" in line]
    rest = lines[start + 1 :]
    end = next((n for n, line in enumerate(rest) if line.startswith(("---", "==="))), len(rest))
    return rest[:end]


class TestSections:
    def test_a_lab_that_could_not_be_brought_up_shows_what_there_was_of_it(self, suite):
        (suite.path / "broken.yaml").write_text(SETUP_FAILS)
        suite.makepyfile(FAILS.replace("lan.yaml", "broken.yaml"))
        result = suite.run()
        result.assert_outcomes(errors=1)
        assert section(result, "nodes of lab 'broken' on 'fake'") == [
            "the lab could not be brought up; this is how it was before it was rolled back",
            "not created: client",
            "running: server",
        ]
        first, second = section(result, "commands in lab 'broken' on 'fake'")
        assert "server: echo first  [exit code 0" in first
        assert "server: log the reason; exit 3  [exit code 3" in second
        assert section(result, "end of the log of node 'server'") == ["the reason"]
        assert suite.events("deleting") == ["deleting server"]

    def test_a_fixture_that_fails_shows_the_commands_of_the_tests_fixtures(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.fixture
            def prepared(lab):
                lab.sync["server"].exec("echo prepared")
                lab.sync["client"].exec("false", check=True)

            @pytest.mark.topology("lan.yaml")
            def test_it(prepared):
                pass
            """
        )
        result = suite.run()
        result.assert_outcomes(errors=1)
        assert section(result, "nodes of lab 'lan' on 'fake'") == ["running: server, client"]
        assert "server: echo prepared" in section(result, "commands in lab 'lan' on 'fake'")[0]

    def test_a_failed_teardown_shows_the_lab_although_it_is_gone_by_then(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.fixture
            def prepared(lab):
                yield
                lab.sync["server"].exec("log bye")
                assert 1 == 2

            @pytest.mark.topology("lan.yaml")
            def test_it(prepared):
                pass
            """
        )
        result = suite.run("--benchscale-artifacts=out")
        result.assert_outcomes(passed=1, errors=1)
        lines = section(result, "nodes of lab 'lan' on 'fake'")
        assert lines[0].startswith("the lab was taken down at ")
        assert lines[1] == "running: server, client"
        assert section(result, "end of the log of node 'server'") == ["bye"]
        content, _ = told(suite, "test_*-teardown-*")
        assert content["test"]["phase"] == "teardown"
        assert content["lab"]["state"] == "down"

    def test_a_lab_that_the_test_took_down_is_shown_as_it_was(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            async def test_it(lab):
                await lab.down()
                assert 1 == 2
            """
        )
        lines = section(suite.run(), "nodes of lab 'lan' on 'fake'")
        assert lines[0].startswith("the lab was taken down at ")

    def test_dead_nodes_are_named_first_with_the_reason(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            async def test_it(lab):
                await lab["client"].exec("log last words; die")
            """
        )
        result = suite.run()
        lines = section(result, "nodes of lab 'lan' on 'fake'")
        assert lines[0].startswith("dead (")
        assert lines[0].endswith("): client")
        assert lines[1] == "running: server"
        assert section(result, "end of the log of node 'client'") == ["last words"]

    def test_only_the_first_of_the_tests_without_a_lab_shows_what_there_was(self, suite):
        (suite.path / "broken.yaml").write_text(SETUP_FAILS)
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("broken.yaml")
            @pytest.mark.parametrize("number", [1, 2])
            def test_it(lab, number):
                pass
            """
        )
        result = suite.run()
        result.assert_outcomes(errors=2)
        assert str(result.stdout).count("- benchscale: nodes of lab") == 1

    def test_logs_that_never_come_do_not_keep_the_report_waiting(self, suite):
        suite.makeconftest(
            suite.CONFTEST + "recording.registry.get('fake').script.delay('logs server', 600)\n"
            "from pytest_benchscale.lab import findings\nfindings.DEADLINE = 0.2\n"
        )
        suite.makepyfile(FAILS)
        result = suite.run_subprocess(timeout=DEADLINE)
        result.assert_outcomes(failed=1)
        assert section(result, "end of the log of node 'server'") == [
            "(the log could not be read: no answer within 0.2 s)"
        ]

    def test_whatever_goes_wrong_with_it_does_not_hide_the_failure(self, suite):
        suite.makeconftest(
            suite.CONFTEST + "from pytest_benchscale.lab import failure\n"
            "failure._states = lambda findings: 1 / 0\n"
        )
        suite.makepyfile(FAILS)
        result = suite.run_subprocess(timeout=DEADLINE)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E*assert 1 == 2", "*ZeroDivisionError*"])

    def test_what_a_console_writes_for_a_terminal_does_not_reach_ours(self, suite):
        suite.makepyfile(
            FAILS.replace(
                "log hello", "printf '\\\\033[31mred' > /x; cat /x; log \033[31mred\033[0m"
            )
        )
        assert section(suite.run(), "end of the log of node 'server'") == ["red"]


class TestArtifacts:
    def test_a_failed_test_leaves_all_there_is_to_know(self, suite):
        suite.makepyfile(FAILS)
        result = suite.run("--benchscale-artifacts=out")
        result.assert_outcomes(failed=1)
        content, place = told(suite)
        assert section(result, "artifacts") == [str(place)]
        assert (content["schema"], content["version"]) == ("pytest-benchscale/failure", 1)
        assert content["test"]["id"].endswith("::test_it")
        assert content["test"]["phase"] == "call"
        assert content["lab"]["backend"] == "fake"
        assert content["lab"]["state"] == "up"
        assert content["lab"]["networks"] == {"lan": "10.1.0.0/24"}
        assert content["topology"]["source"] == str(suite.path / "lan.yaml")
        server, client = content["nodes"]
        assert server["state"] == client["state"] == "running"
        assert server["addresses"]["lan"].startswith("10.1.0.")
        assert (place / server["log"]).read_text() == "hello\n"
        (command,) = content["commands"]
        assert command["command"] == "log hello; exit 7"
        assert command["outcome"] == "exit code 7"
        assert content["errors"][0]["type"] == "AssertionError"
        assert content["get_back_in"] == {
            "kept": False,
            "commands": [f"pytest {content['test']['id']} --benchscale-keep=failed"],
        }

    def test_an_error_of_ours_is_there_with_what_to_do(self, suite):
        suite.makepyfile(FAILS)
        suite.run("--benchscale-artifacts=out", "--benchscale-backend=failing")
        content, _ = told(suite)
        assert content["test"]["phase"] == "setup"
        assert content["lab"]["state"] == "not brought up"
        ours = content["errors"][-1]
        assert ours["type"] == "LabError"
        assert (ours["node"], ours["step"]) == ("server", "create")
        assert "--benchscale-keep" not in str(content["get_back_in"])
        assert "no room" in ours["brief"]
        assert {node["state"] for node in content["nodes"]} <= {
            *("did not come up", "running", "not created")
        }

    def test_a_backend_that_is_not_there_leaves_a_failure_without_a_lab(self, suite):
        suite.makepyfile(FAILS)
        suite.run("--benchscale-artifacts=out", "--benchscale-backend=absent")
        content, _ = told(suite)
        assert content["lab"] is None
        assert content["errors"][-1]["resolution"] == "start the daemon"

    def test_equal_names_and_odd_ones_do_not_overwrite_each_other(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            @pytest.mark.parametrize("what", ["a/../..", "a:..:..", "ü" * 200, "x" * 300, ""])
            def test_it(lab, what):
                assert False
            """
        )
        suite.run("--benchscale-artifacts=out").assert_outcomes(failed=5)
        places = list((suite.path / "out" / "failures").iterdir())
        ids = {json.loads((one / "failure.json").read_text())["test"]["id"] for one in places}
        assert len(ids) == 5
        assert all(one.name.isascii() and len(one.name) < 200 for one in places)

    def test_workers_write_beside_each_other(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            @pytest.mark.parametrize("number", range(6))
            def test_it(lab, number):
                assert False
            """
        )
        result = suite.run_subprocess(
            "-n", "2", "--benchscale-artifacts=out", "--junitxml=out.xml", timeout=DEADLINE
        )
        result.assert_outcomes(failed=6)
        places = list((suite.path / "out" / "failures").iterdir())
        contents = [json.loads((one / "failure.json").read_text()) for one in places]
        assert len({content["test"]["id"] for content in contents}) == 6
        assert {content["test"]["worker"] for content in contents} == {"gw0", "gw1"}
        named = {properties["benchscale.artifacts"] for properties in junit(suite)}
        assert named == set(map(str, places))

    def test_secrets_are_masked(self, suite):
        (suite.path / "secret.yaml").write_text(SECRET)
        suite.makepyfile(
            FAILS.replace("lan.yaml", "secret.yaml").replace("exit 7", "echo swordfish")
        )
        result = suite.run("--benchscale-artifacts=out")
        result.assert_outcomes(failed=1)
        _, place = told(suite)
        (of_lab,) = (suite.path / "out").glob("secret-*/topology.json")
        for text in ((place / "failure.json").read_text(), of_lab.read_text()):
            assert "TOKEN" in text
            assert "do-not-tell" not in text
            assert "swordfish" not in text
        assert "echo ***" in section(result, "commands in lab 'secret' on 'fake'")[0]

    def test_a_place_that_cannot_be_written_to_is_told_beside_the_result(self, suite):
        suite.makepyfile(FAILS + "        os.rmdir('x')\n")
        (suite.path / "out").mkdir()
        (suite.path / "out" / "failures").write_text("in the way")
        result = suite.run("--benchscale-artifacts=out")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E*assert 1 == 2", "they could not be written: *failures*"])

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
    def test_a_full_disk_is_told_beside_the_result(self, suite):
        suite.makeconftest(
            suite.CONFTEST + "from pytest_benchscale.lab import failure_file\n"
            "real = failure_file._new_directory\n"
            "def full(parent, name):\n"
            "    place = real(parent, name)\n"
            "    (place / 'failure.json').symlink_to('/dev/full')\n"
            "    return place\n"
            "failure_file._new_directory = full\n"
        )
        suite.makepyfile(FAILS)
        result = suite.run_subprocess("--benchscale-artifacts=out", timeout=DEADLINE)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E*assert 1 == 2", "they could not be written: *No space*"])

    def test_they_survive_a_teardown_that_hangs(self, suite):
        suite.makeconftest(
            suite.CONFTEST + "script = recording.registry.get('fake').script\n"
            "script.delay('logs client', 600)\n"
            "script.delay('delete_node server', 600)\n"
            "from pytest_benchscale.lab import findings, teardown\n"
            "findings.DEADLINE, teardown.DELETE_DEADLINE = 0.2, 2\n"
        )
        suite.makepyfile(FAILS)
        result = suite.run_subprocess("--benchscale-artifacts=out", timeout=DEADLINE)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*deleting node 'server' was not done after 2 s*"])
        told(suite)
        (of_lab,) = (suite.path / "out").glob("lan-*")
        assert (of_lab / "nodes" / "server.log").read_text() == "hello\n"
        assert "no answer" in (of_lab / "nodes" / "client.log").read_text()


def junit(suite):
    """Return the properties of each test case, by name."""
    return [
        {one.get("name"): one.get("value") for one in case.iter("property")}
        for case in ET.parse(suite.path / "out.xml").iter("testcase")
    ]


class TestProperties:
    @pytest.mark.parametrize("family", ["xunit1", "xunit2"])
    def test_junit_xml_tells_the_lab_of_each_test(self, suite, family):
        suite.makepyfile(FAILS + "\n\n    def test_other():\n        pass\n")
        suite.run(
            "--junitxml=out.xml", "-o", f"junit_family={family}", "--benchscale-artifacts=out"
        )
        content, place = told(suite)
        assert junit(suite) == [
            {
                "benchscale.lab": content["lab"]["id"],
                "benchscale.backend": "fake",
                "benchscale.topology": str(suite.path / "lan.yaml"),
                "benchscale.artifacts": str(place),
            },
            {},
        ]

    def test_a_test_without_its_lab_tells_the_rest(self, suite):
        suite.makepyfile(FAILS)
        suite.run("--junitxml=out.xml", "--benchscale-backend=failing")
        assert junit(suite) == [
            {
                "benchscale.backend": "failing",
                "benchscale.topology": str(suite.path / "lan.yaml"),
            }
        ]

    def test_those_of_workers_reach_the_controller(self, suite):
        suite.makepyfile(FAILS)
        suite.run_subprocess("-n", "1", "--junitxml=out.xml", timeout=DEADLINE)
        (properties,) = junit(suite)
        assert set(properties) == {*("benchscale.lab", "benchscale.backend", "benchscale.topology")}
