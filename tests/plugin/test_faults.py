"""Faults in tests: what a failure shows of them, and what becomes of those that are left behind."""

from __future__ import annotations

import pytest


@pytest.fixture
def real(suite):
    """A suite on the embedded backend itself, since faults are proved by measuring."""
    suite.makeconftest("")
    suite.makeini("[pytest]\nbenchscale_backend = local\n")
    return suite


LEFT_BEHIND = (
    "*FaultWarning: test_it.py::test_forgets has left faults behind*: "
    "partition server | client; conditions of server"
)

TWO_LEFT = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    async def test_forgets(lab):
        await lab.partition({"server"}, {"client"}).begin()
        await lab["server"].set_conditions(bandwidth_kbps=1000)
        assert await lab.reachability() == {"server": [], "client": []}

    @pytest.mark.topology("lan.yaml")
    async def test_after_it(lab):
        assert not lab.faults.active
        assert await lab.reachability() == {"server": ["client"], "client": ["server"]}
"""

OF_A_FIXTURE = """
    import pytest

    @pytest.fixture(scope="module")
    def cut(lab):
        with lab.sync.partition({"server"}, {"client"}):
            yield

    @pytest.mark.topology("lan.yaml")
    @pytest.mark.parametrize("number", [1, 2])
    async def test_in_the_cut(lab, cut, number):
        assert await lab.reachability() == {"server": [], "client": []}
"""

FAILING = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    async def test_fails(lab):
        async with lab.partition({"server"}, {"client"}):
            assert 1 == 2
"""

WITHOUT_EFFECT = """
    import pytest
    from pytest_benchscale.lab.link_states import LinkStates

    @pytest.mark.topology("lan.yaml")
    async def test_survives_what_does_not_happen(lab, monkeypatch):
        async def apply(self, nodes=None):
            pass

        monkeypatch.setattr(LinkStates, "apply", apply)
        async with lab.partition({"server"}, {"client"}):
            pass
"""


def test_faults_that_a_test_leaves_are_taken_back_with_a_warning_that_names_both(real):
    real.makepyfile(test_it=TWO_LEFT)
    result = real.run("-W", "default::pytest_benchscale.errors.FaultWarning")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines([LEFT_BEHIND])


def test_where_warnings_are_errors_so_is_a_fault_that_is_left(real):
    real.makepyfile(test_it=TWO_LEFT)
    result = real.run("-W", "error::pytest_benchscale.errors.FaultWarning")
    result.assert_outcomes(passed=2, errors=1)


def test_a_fault_of_a_fixture_lasts_as_long_as_the_fixture(real):
    real.makepyfile(test_it=OF_A_FIXTURE)
    real.run().assert_outcomes(passed=2)


def test_the_report_of_a_failure_shows_the_faults_of_the_test(real):
    real.makepyfile(test_it=FAILING)
    result = real.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*benchscale: faults in lab 'lan'*", "??:??:?? partition server | client  [[]*s]"]
    )


def test_a_fault_without_effect_fails_the_test_and_shows_what_was_measured(real):
    real.makepyfile(test_it=WITHOUT_EFFECT)
    result = real.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*partition server | client has no effect: server -> client, client -> server still get*"]
    )
    assert "Traceback" not in str(result.stdout)


def test_conditions_on_a_kernel_that_cannot_are_told_before_any_node_exists(real):
    real.makepyfile(
        """
        import pytest
        from pytest_benchscale import Topology
        from pytest_benchscale.backends.local.backend import LocalBackend

        SLOW = Topology.from_dict(
            {"network": {"name": "lan", "preset": "satellite"}, "nodes": [{"name": "a"}]}
        )

        async def has_netem(self):
            return False

        async def create_node(self, plan):
            raise AssertionError("a node was created")

        LocalBackend.has_netem, was = has_netem, LocalBackend.has_netem
        LocalBackend.create_node, created = create_node, LocalBackend.create_node

        @pytest.fixture(scope="session", autouse=True)
        def put_back():
            yield
            LocalBackend.has_netem, LocalBackend.create_node = was, created

        @pytest.mark.topology(SLOW)
        def test_slow(lab): pass
        """
    )
    result = real.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*sch_netem*", "*What to do: *modprobe sch_netem*"])
    real.run("--benchscale-missing=skip").assert_outcomes(skipped=1)
