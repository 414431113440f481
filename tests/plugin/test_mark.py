"""The mark: which tests get a lab, and which lab that is."""

from __future__ import annotations

import pytest

MARKED = """
    import pytest

    @pytest.mark.topology("lan.yaml")
    def test_it(lab):
        assert list(lab.nodes) == ["server", "client"]
"""


def test_a_marked_test_gets_the_lab_of_its_file(suite):
    suite.makepyfile(MARKED)
    suite.run().assert_outcomes(passed=1)
    assert suite.events() == ["open lan", "close lan"]


def test_a_lab_leaves_the_name_of_a_test_as_it_is(suite):
    suite.makepyfile(test_name=MARKED)
    suite.run("-v").stdout.fnmatch_lines(["test_name.py::test_it PASSED*"])


def test_a_marked_test_gets_its_lab_without_naming_it(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml")
        def test_it():
            pass
        """
    )
    suite.run().assert_outcomes(passed=1)
    assert suite.events() == ["open lan", "close lan"]


@pytest.mark.parametrize("alias", ["topology", "benchscale"])
def test_both_names_of_the_mark_do_the_same(suite, alias):
    suite.makepyfile(MARKED.replace("topology(", f"{alias}("))
    suite.run("--strict-markers").assert_outcomes(passed=1)


def test_the_marks_are_documented(suite):
    suite.run("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.topology(*sources, backend=None, reset=None)*", "@pytest.mark.benchscale(*"]
    )


def test_a_mark_on_a_class_or_a_module_counts_for_all_its_tests(suite):
    suite.makepyfile(
        test_module="""
        import pytest

        pytestmark = pytest.mark.topology("lan.yaml")

        def test_one(lab):
            assert lab.name == "lan"

        def test_two():
            pass
        """,
        test_class="""
        import pytest

        @pytest.mark.topology("wan.yaml")
        class TestWan:
            def test_one(self, lab):
                assert lab.name == "wan"

            def test_two(self):
                pass

        def test_without(request):
            assert "lab" not in request.fixturenames
        """,
    )
    suite.run().assert_outcomes(passed=5)
    assert suite.events() == ["open wan", "close wan", "open lan", "close lan"]


def test_the_closest_mark_wins(suite):
    suite.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.topology("lan.yaml")

        def test_module(lab):
            assert lab.name == "lan"

        @pytest.mark.topology("wan.yaml")
        class TestClass:
            def test_class(self, lab):
                assert lab.name == "wan"

            @pytest.mark.benchscale("lan.yaml")
            def test_function(self, lab):
                assert lab.name == "lan"
        """
    )
    suite.run().assert_outcomes(passed=3)


def test_a_class_overrides_the_mark_that_it_inherits(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml")
        class TestLan:
            def test_name(self, lab):
                assert lab.name == self.expected
            expected = "lan"

        @pytest.mark.topology("wan.yaml")
        class TestWan(TestLan):
            expected = "wan"
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_a_method_that_is_inherited_without_a_mark_gets_no_lab(suite):
    suite.makepyfile(
        """
        import pytest

        class Base:
            async def test_names(self, request):
                assert ("lab" in request.fixturenames) is self.marked

        @pytest.mark.topology("lan.yaml")
        class TestMarked(Base):
            marked = True

        @pytest.mark.asyncio
        class TestUnmarked(Base):
            marked = False
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_a_static_method_can_be_marked(suite):
    suite.makepyfile(
        """
        import pytest

        class TestStatic:
            @staticmethod
            @pytest.mark.topology("lan.yaml")
            def test_inner(lab):
                assert lab.name == "lan"

            @pytest.mark.topology("lan.yaml")
            @staticmethod
            def test_outer(lab):
                assert lab.name == "lan"
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_a_test_function_that_two_modules_share_is_marked_once(suite):
    suite.makepyfile(
        test_a=MARKED,
        test_b="from test_a import test_it",
        conftest="import sys; sys.path.insert(0, '')\n" + suite.CONFTEST,
    )
    suite.run().assert_outcomes(passed=2)
    assert suite.events() == ["open lan", "close lan"]


def test_several_sources_run_the_test_once_for_each(suite):
    suite.makepyfile(
        test_several="""
        import pytest

        @pytest.mark.topology("lan.yaml", "wan.yaml")
        def test_it(lab):
            pass
        """
    )
    suite.run("-v").stdout.fnmatch_lines(
        ["test_several.py::test_it[[]lan] PASSED*", "test_several.py::test_it[[]wan] PASSED*"]
    )


def test_a_topology_object_is_a_source(suite):
    suite.makepyfile(
        """
        import pathlib
        import pytest
        from pytest_benchscale import Topology

        LONE = Topology.from_dict({"metadata": {"name": "lone"}, "nodes": [{"name": "alone"}]})

        @pytest.mark.topology(LONE)
        def test_object(lab):
            assert list(lab.nodes) == ["alone"]

        @pytest.mark.topology(pathlib.Path("lan.yaml"))
        def test_path(lab):
            assert lab.name == "lan"

        @pytest.mark.topology("wan.yaml", LONE)
        def test_both(lab):
            assert lab.name in {"wan", "lone"}
        """
    )
    suite.run().assert_outcomes(passed=4)


def test_the_mark_names_a_backend(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml", backend="docker")
        def test_it(lab):
            assert lab.backend == "docker"
        """
    )
    suite.run().assert_outcomes(passed=1)


def test_tests_of_one_topology_run_together_and_one_lab_is_up_at_a_time(suite):
    body = """
        import pytest

        @pytest.mark.topology("lan.yaml")
        def test_lan_{n}(lab):
            assert lab.is_up

        def test_plain_{n}():
            pass

        @pytest.mark.topology("wan.yaml", "lan.yaml")
        def test_both_{n}(lab):
            assert lab.is_up

        @pytest.mark.topology("wan.yaml")
        def test_wan_{n}(lab):
            assert lab.is_up
    """
    suite.makepyfile(**{f"test_{n}": body.format(n=n) for n in range(3)})
    suite.run().assert_outcomes(passed=15)
    assert suite.events() == ["open lan", "close lan", "open wan", "close wan"]


def test_a_lab_stays_grouped_beside_other_parameters(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.topology("lan.yaml", "wan.yaml")
        def test_it(lab, number):
            pass
        """
    )
    result = suite.run("-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(["*test_it[[]lan-1]*", "*test_it[[]wan-2]*"])
    assert suite.events() == ["open lan", "close lan", "open wan", "close wan"]


def test_equal_files_in_other_directories_are_other_labs(suite):
    for directory in ("one", "two"):
        place = suite.mkdir(directory)
        (place / "lan.yaml").write_text((suite.path / "lan.yaml").read_text())
        (place / f"test_{directory}.py").write_text(
            "import pytest\n\n@pytest.mark.topology('lan.yaml')\n"
            f"def test_it(lab):\n    assert lab.topology.directory.name == '{directory}'\n"
        )
    suite.run().assert_outcomes(passed=2)
    assert suite.events() == ["open lan", "close lan"] * 2


def test_fixtures_of_any_scope_can_use_the_lab(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def prepared(lab):
            lab.sync["server"].write_text("/ready", "yes")
            return lab

        @pytest.fixture
        def server(lab):
            return lab.sync["server"]

        @pytest.mark.topology("lan.yaml")
        def test_it(prepared, server):
            assert server.read_text("/ready") == "yes"
        """
    )
    suite.run().assert_outcomes(passed=1)


def test_a_suite_may_build_on_the_fixture_by_overriding_it(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def lab(lab):
            lab.sync["server"].write_text("/ready", "yes")
            return lab

        @pytest.mark.topology("lan.yaml")
        def test_it(lab):
            assert lab.sync["server"].read_text("/ready") == "yes"
        """
    )
    suite.run().assert_outcomes(passed=1)


def test_setup_plan_shows_the_lab_and_does_not_build_it(suite):
    suite.makepyfile(MARKED)
    suite.run("--setup-plan").stdout.fnmatch_lines(["SETUP * S lab*", "TEARDOWN S lab*"])
    assert suite.events() == []


def test_the_fixture_is_documented(suite):
    suite.run("--fixtures").stdout.fnmatch_lines(
        ["lab [[]session scope]*", "*The lab of the test's topology*"]
    )


def test_a_run_without_marks_imports_nothing_but_the_plugin(suite):
    suite.makeini("")
    suite.makeconftest("")
    suite.makepyfile(
        """
        import sys

        def test_it():
            assert {name for name in sys.modules if name.startswith("pytest_benchscale")} == {
                "pytest_benchscale", "pytest_benchscale.plugin",
                "pytest_benchscale.marks", "pytest_benchscale.options",
            }
            assert "pydantic" not in sys.modules
        """
    )
    suite.run_subprocess(timeout=30).assert_outcomes(passed=1)


def test_marks_of_other_plugins_are_left_alone(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("t0", "t1")
        def test_names(request):
            assert "lab" not in request.fixturenames

        @pytest.mark.topology(object(), "lan.yaml")
        def test_objects(request):
            assert "lab" not in request.fixturenames

        @pytest.mark.topology
        def test_bare(request):
            assert "lab" not in request.fixturenames

        @pytest.mark.topology("t0")
        @pytest.mark.benchscale("lan.yaml")
        def test_both(lab):
            pass
        """
    )
    suite.run().assert_outcomes(passed=4)


def test_the_fixture_without_a_mark_says_which_mark_is_missing(suite):
    suite.makepyfile(
        """
        import pytest

        def test_plain(lab):
            pass

        @pytest.mark.topology("t0")
        def test_foreign(lab):
            pass

        @pytest.mark.parametrize("lab", ["lan.yaml"], indirect=True)
        def test_parametrised(lab):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            '*needs a topology: mark the test*@pytest.mark.topology("simple-lan.yaml")',
            "*needs a topology: mark the test*",
            "Its `topology` mark is not ours*@pytest.mark.benchscale is the same mark*",
        ]
    )
    assert str(result.stdout).count("is not ours") == 1
    assert "plugin.py" not in str(result.stdout)


def test_a_unittest_class_is_refused_since_it_cannot_be_parametrised(suite):
    suite.makepyfile(
        """
        import unittest
        import pytest

        @pytest.mark.topology("lan.yaml")
        class TestOld(unittest.TestCase):
            def test_it(self):
                pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*cannot be given a lab*not on unittest.TestCase*"])


def test_a_mark_that_comes_too_late_is_an_error_and_not_a_test_without_a_lab(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize(
            "number", [pytest.param(1, marks=pytest.mark.topology("lan.yaml")), 2]
        )
        def test_it(number):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*cannot be given a lab*not inside pytest.param*"])


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("topology('lan.yaml', backnd='fake')", "*has no keyword 'backnd'"),
        ("topology('lan.yaml', backend=3)", "*backend is a name, not 3"),
        ("topology('lan.yaml', backend='fakr')", "*'fakr'*did you mean 'fake'[?]*"),
        ("benchscale()", "*needs a source*"),
        ("benchscale('t0')", "*topology file 't0' was not found"),
        ("benchscale(7)", "*a topology is a path or a Topology, not 7"),
    ],
)
def test_a_wrong_mark_is_a_collection_error_without_a_traceback(suite, mark, message):
    suite.makepyfile(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    assert "Traceback" not in str(result.stdout)
    assert "plugin.py" not in str(result.stdout)


def test_two_marks_on_one_function_are_an_error(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.topology("lan.yaml")
        @pytest.mark.benchscale("wan.yaml")
        def test_it(lab):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*2 topology marks*one mark takes several sources"])


class TestSources:
    def test_a_file_is_looked_up_beside_the_test_first(self, suite):
        place = suite.mkdir("deep")
        (place / "lan.yaml").write_text("metadata: {name: near}\nnodes: [{name: a}]\n")
        (place / "test_deep.py").write_text(
            "import pytest\n\n@pytest.mark.topology('lan.yaml')\n"
            "def test_it(lab):\n    assert lab.name == 'near'\n"
        )
        suite.run().assert_outcomes(passed=1)

    def test_then_in_benchscale_topology_path_and_then_at_the_root(self, suite):
        place = suite.mkdir("deep")
        (suite.mkdir("shared") / "near.yaml").write_text(
            "metadata: {name: shared}\nnodes: [{name: a}]\n"
        )
        (suite.path / "near.yaml").write_text("metadata: {name: root}\nnodes: [{name: a}]\n")
        (place / "test_deep.py").write_text(
            "import pytest\n\n@pytest.mark.topology('near.yaml', 'wan.yaml')\n"
            "def test_it(lab):\n    assert lab.name in {'shared', 'wan'}\n"
        )
        suite.makeini("[pytest]\nbenchscale_topology_path = nowhere shared\n")
        suite.run().assert_outcomes(passed=2)

    def test_a_file_that_is_nowhere_is_an_error_that_lists_the_places(self, suite):
        suite.makeini("[pytest]\nbenchscale_topology_path = shared\n")
        suite.makepyfile(MARKED.replace("lan.yaml", "lam.yaml"))
        result = suite.run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [
                "topology file 'lam.yaml' was not found",
                "looked for:",
                f"  {suite.path}/lam.yaml",
                f"  {suite.path}/shared/lam.yaml",
                "What to do: put it beside the test*",
            ]
        )

    def test_a_wrong_file_is_a_collection_error_with_exactly_its_problems(self, suite):
        (suite.path / "wrong.yaml").write_text("nodes:\n  - name: a\n    memroy: 1\n    vcpus: x\n")
        suite.makepyfile(test_a=MARKED.replace("lan.yaml", "wrong.yaml"), test_b=MARKED)
        result = suite.run("--continue-on-collection-errors")
        result.assert_outcomes(errors=1, passed=1)
        result.stdout.fnmatch_lines(
            [
                "*ERROR collecting test_a.py*",
                f"{suite.path}/wrong.yaml:3:5: nodes[[]0].memroy: *did you mean memory_mb[?]",
                f"{suite.path}/wrong.yaml:4:12: nodes[[]0].vcpus: *",
                "*short test summary*",
            ],
            consecutive=True,
        )

    def test_each_file_is_loaded_once(self, suite):
        suite.makepyfile(
            """
            import pytest
            from pytest_benchscale.topology import loader

            loads = []
            load = loader.load
            loader.load = lambda path, **more: loads.append(path) or load(path, **more)

            @pytest.mark.topology("lan.yaml")
            def test_one(lab):
                pass

            @pytest.mark.topology("../" + __file__.split("/")[-2] + "/lan.yaml")
            def test_two(lab):
                loader.load = load
                assert len(loads) == 1
            """
        )
        suite.run().assert_outcomes(passed=2)
