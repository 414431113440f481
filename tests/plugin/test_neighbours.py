"""Other plugins in the same session, each with its own features in use."""

from __future__ import annotations

import pytest

TWO_FILES = """
    import pytest

    @pytest.mark.topology("{name}.yaml")
    @pytest.mark.parametrize("number", range(3))
    def test_it(lab, number):
        assert lab.name == "{name}"
        assert lab.sync.exec("echo hi")["{node}"].stdout == "hi\\n"
"""


class TestXdist:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("xdist")

    def test_each_worker_has_labs_of_its_own(self, suite):
        suite.makepyfile(
            test_lan=TWO_FILES.format(name="lan", node="client"),
            test_wan=TWO_FILES.format(name="wan", node="router"),
        )
        result = suite.run("-n2", "-v")
        result.assert_outcomes(passed=6)
        result.stdout.fnmatch_lines_random(["*PASSED test_lan.py::test_it[[]0]*"])
        events = suite.events()
        assert sorted(set(events)) == ["close lan", "close wan", "open lan", "open wan"]
        assert len(events) >= 4
        assert events.count("open lan") == events.count("close lan") <= 2

    def test_grouping_by_scope_gives_each_lab_to_one_worker(self, suite):
        suite.makepyfile(
            test_lan=TWO_FILES.format(name="lan", node="client"),
            test_wan=TWO_FILES.format(name="wan", node="router"),
        )
        suite.run("-n2", "--dist=loadfile").assert_outcomes(passed=6)
        assert sorted(suite.events()) == ["close lan", "close wan", "open lan", "open wan"]

    def test_the_workers_tell_the_controller_what_happened(self, suite):
        suite.makepyfile(TWO_FILES.format(name="lan", node="client"))
        result = suite.run("-n2", "--benchscale-backend=sticky,absent", "--benchscale-missing=skip")
        result.assert_outcomes(passed=3, skipped=3)
        result.stdout.fnmatch_lines(
            [
                "*= benchscale: skipped for want of a backend or a machine =*",
                "3 x backend 'absent' is not usable: *",
                "*= benchscale: not taken down cleanly =*",
                "lab 'lan' on 'sticky' was not taken down cleanly",
            ]
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED

    def test_what_auto_chose_is_told_at_the_end(self, suite):
        suite.makeini("")
        suite.makepyfile(TWO_FILES.format(name="lan", node="client"))
        result = suite.run("-n2")
        result.assert_outcomes(passed=3)
        assert str(result.stdout).count("benchscale: lan on local ") == 1

    def test_a_lab_that_cannot_be_kept_fails_in_the_workers(self, suite):
        suite.makepyfile(TWO_FILES.format(name="lan", node="client"))
        result = suite.run("-n1", "--benchscale-keep=always")
        result.assert_outcomes(errors=3)
        result.stdout.fnmatch_lines(["*does not support keeping a lab*"])

    def test_a_wrong_option_is_one_usage_error_of_the_controller(self, suite):
        result = suite.run("-n2", "--benchscale-keep=yes")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: --benchscale-keep: 'yes' is none of *"])


class TestTimeout:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("pytest_timeout")

    def test_a_timeout_interrupts_a_blocking_call_and_kills_its_command(self, suite):
        suite.makepyfile(
            """
            import pytest

            pytestmark = pytest.mark.topology("lan.yaml")

            @pytest.mark.timeout(0.3, method="signal")
            def test_sync(lab):
                lab.sync["server"].exec("sleep 50")

            @pytest.mark.timeout(0.3, method="signal")
            async def test_async(lab):
                await lab["server"].exec("sleep 50")

            def test_the_lab_still_works(lab):
                assert lab.sync["server"].exec("echo hi").stdout == "hi\\n"
            """
        )
        result = suite.run()
        result.assert_outcomes(failed=2, passed=1)
        result.stdout.fnmatch_lines(["*Timeout*0.3s*"])
        assert suite.events() == ["open lan", "close lan"]

    def test_a_timeout_while_a_lab_comes_up_rolls_it_back(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml", backend="slow")
            @pytest.mark.timeout(0.5, method="signal")
            def test_slow(lab):
                pass

            @pytest.mark.topology("wan.yaml")
            def test_next(lab):
                pass
            """
        )
        result = suite.run()
        assert result.ret != 0
        assert suite.events()[:2] == ["open lan", "close lan"]

    def test_the_thread_method_ends_pytest_as_it_means_to(self, suite):
        suite.makepyfile(
            """
            import pytest

            @pytest.mark.topology("lan.yaml")
            @pytest.mark.timeout(0.3, method="thread")
            def test_sync(lab):
                lab.sync["server"].exec("sleep 50")
            """
        )
        result = suite.run_subprocess(timeout=30)
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*Timeout*"])


def test_testinfra_checks_hosts_beside_labs(suite):
    pytest.importorskip("testinfra")
    suite.makepyfile(
        test_both="""
        import pytest

        testinfra_hosts = ["local://"]

        @pytest.mark.topology("lan.yaml")
        def test_both(host, lab):
            assert host.check_output("echo host") == "host"
            assert lab.sync["server"].exec("echo lab").stdout == "lab\\n"

        def test_host(host):
            assert host.file("/").is_directory
        """
    )
    result = suite.run("-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(["*::test_both[[]local] PASSED*"])


def test_labgrid_gives_targets_beside_labs(suite):
    pytest.importorskip("labgrid")
    suite.makefile(".yaml", env="targets: {main: {features: [dummy]}}\n")
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml")
        @pytest.mark.lg_feature("dummy")
        def test_both(target, lab):
            assert target.name == "main"
            assert lab.name == "lan"

        @pytest.mark.topology("lan.yaml")
        @pytest.mark.lg_feature("camera")
        def test_skipped_by_labgrid(lab):
            pass
        """
    )
    result = suite.run_subprocess("--lg-env=env.yaml", timeout=60, but=())
    result.assert_outcomes(passed=1, skipped=1)
    assert suite.events() == ["open lan", "close lan"]


def test_pytest_mh_keeps_its_own_topology_mark(suite):
    pytest.importorskip("pytest_mh")
    suite.makefile(
        ".yaml",
        mh="domains: [{id: test, hosts: [{hostname: localhost, role: box}]}]\n",
    )
    suite.makeconftest(
        suite.CONFTEST
        + """
from pytest_mh import (
    MultihostConfig, MultihostDomain, MultihostHost, MultihostPlugin, MultihostRole,
)

pytest_plugins = ("pytest_mh",)

class Host(MultihostHost[MultihostDomain[MultihostConfig]]):
    pass

class Role(MultihostRole[Host]):
    pass

class Domain(MultihostDomain[MultihostConfig]):
    @property
    def role_to_host_class(self):
        return {"*": Host}

    @property
    def role_to_role_class(self):
        return {"*": Role}

class Config(MultihostConfig):
    @property
    def id_to_domain_class(self):
        return {"*": Domain}

def pytest_plugin_registered(plugin):
    if isinstance(plugin, MultihostPlugin):
        plugin.config_class = Config
"""
    )
    suite.makepyfile(
        test_both="""
        import pytest
        from pytest_mh import Topology, TopologyDomain

        BOX = Topology(TopologyDomain("test", box=1))

        @pytest.mark.topology("boxes", BOX, fixtures={"box": "test.box[0]"})
        def test_theirs(box, request):
            assert box.host.hostname == "localhost"
            assert "lab" not in request.fixturenames

        @pytest.mark.benchscale("lan.yaml")
        async def test_ours(lab):
            assert (await lab["server"].exec("echo hi")).stdout == "hi\\n"
        """
    )
    result = suite.run_subprocess("-v", "--mh-config=mh.yaml", "--mh-lazy-ssh", timeout=60)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(["*::test_theirs*PASSED*", "*::test_ours PASSED*"])
    assert suite.events() == ["open lan", "close lan"]


def test_pytest_randomly_shuffles_and_labs_stay_together(suite):
    pytest.importorskip("pytest_randomly")
    suite.makepyfile(
        test_lan=TWO_FILES.format(name="lan", node="client"),
        test_wan=TWO_FILES.format(name="wan", node="router"),
    )
    suite.run("-p", "randomly").assert_outcomes(passed=6)
    assert sorted(suite.events()) == ["close lan", "close wan", "open lan", "open wan"]
