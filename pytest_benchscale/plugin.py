"""The pytest hooks and fixtures, nothing else.

Only the standard library and pytest are imported here, and so in `marks`: a run without labs must not
pay for the plugin. What the hooks do is in `lab.session`, imported when a mark or an option needs it.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_benchscale.lab.lab import Lab
    from pytest_benchscale.lab.session import LabSession

SESSION = pytest.StashKey["LabSession"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and the ini settings; `lab.settings` knows what they may hold."""
    from pytest_benchscale import options

    options.add_to(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; check the configuration, where there is any."""
    from pytest_benchscale import marks, options

    for line in marks.HELP:
        config.addinivalue_line("markers", line)
    if any(options.given(config).values()):
        _session(config)


def _session(config: pytest.Config) -> LabSession:
    """Return the labs of this run, made when first asked for.

    Raises:
        pytest.UsageError: the configuration is wrong.
    """
    if SESSION not in config.stash:
        from pytest_benchscale import options, progress
        from pytest_benchscale.errors import BenchscaleError
        from pytest_benchscale.lab.session import LabSession
        from pytest_benchscale.lab.settings import Settings

        try:
            settings = Settings.parse(
                config.rootpath, config.invocation_params.dir, **options.given(config)
            )
        except BenchscaleError as error:
            raise _usage_error(error) from None
        config.stash[SESSION] = labs = LabSession(settings, progress.ProgressLine(config))
        config.add_cleanup(labs.close)  # of a run that ends before its tests, or in an odd way
    return config.stash[SESSION]


def _usage_error(error: Exception) -> pytest.UsageError:
    return pytest.UsageError("; ".join(str(error).splitlines()))


@pytest.hookimpl(wrapper=True, trylast=True)  # the innermost: pytest-asyncio shall see what we add
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Generator[None, Any, Any]:
    """Give a marked test the fixture `lab`, also when it does not name it, and a loop to run in."""
    from pytest_benchscale import marks

    if collector.istestfunction(obj, name):
        marks.use_lab(collector, obj)
    items = yield
    for item in items if isinstance(items, list) else ():
        if isinstance(item, pytest.Function) and marks.wants_asyncio(item):
            item.add_marker("asyncio")
    return items


@pytest.hookimpl(wrapper=True)  # before pytest-asyncio decides about the test's loop
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    """Run a marked test once for each of its topologies and backends."""
    from pytest_benchscale import marks

    function = metafunc.definition
    if "lab" in metafunc.fixturenames and (mark := marks.mark_of(function)):
        from pytest_benchscale.errors import BenchscaleError

        try:
            labs = _session(metafunc.config).requests(mark.args, mark.kwargs, function.path)
        except BenchscaleError as error:
            raise pytest.Collector.CollectError(str(error)) from None
        params = [pytest.param(request, id=id_ or pytest.HIDDEN_PARAM) for request, id_ in labs]
        metafunc.parametrize("lab", params, indirect=True, scope="session")
        if marks.wants_asyncio(function):
            function.add_marker("asyncio")
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Number the labs, so that tests of one run together: older versions of pytest group by it."""
    from pytest_benchscale import marks

    for item in items if SESSION in config.stash else ():
        if (request := marks.request_of(item)) and isinstance(item, pytest.Function):
            item.callspec.indices["lab"] = request.index


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop before the first test when labs shall be kept or reset that cannot be."""
    config = session.config
    if SESSION not in config.stash or config.option.collectonly or hasattr(config, "workerinput"):
        return
    from pytest_benchscale import marks
    from pytest_benchscale.errors import NotSupported

    try:
        config.stash[SESSION].check_abilities(filter(None, map(marks.request_of, session.items)))
    except NotSupported as error:
        raise _usage_error(error) from None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show what was asked for; what `auto` chooses is known only after collection."""
    return config.stash[SESSION].settings.summary() if SESSION in config.stash else None


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> Sequence[str]:
    """Show which backend `auto` chose for each lab, and what is not enforced there."""
    if SESSION not in config.stash or config.option.collectonly or config.get_verbosity() < 0:
        return ()
    from pytest_benchscale import marks

    return config.stash[SESSION].describe(filter(None, map(marks.request_of, items)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse to run a marked test without its lab; give it the lab that it shall have."""
    from pytest_benchscale import marks

    if reason := marks.why_without_lab(item):
        pytest.fail(reason, pytrace=False)
    marks.begin_test(item, item.config.stash.get(SESSION, None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Remember the faults that the test's fixtures have made: they are theirs to take back."""
    if labs := item.config.stash.get(SESSION, None):
        labs.begin_call()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Take back the faults that a test has left, after its fixtures had their turn, and warn of it."""
    from pytest_benchscale import marks

    if (labs := item.config.stash.get(SESSION, None)) is None:
        return (yield)
    with labs.ending_test(marks.request_of(item)):
        result = yield
        if warning := labs.heal(item.nodeid):
            item.warn(warning)
    return result


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab of the test's topology: its running nodes by name, as in `lab["server"]`."""
    __tracebackhide__ = True
    from pytest_benchscale import marks, reporting, signals
    from pytest_benchscale.errors import BenchscaleError
    from pytest_benchscale.lab.request import LabRequest

    labs = _session(request.config)
    signals.listen(request.config)
    if not isinstance(getattr(request, "param", None), LabRequest):
        reporting.give_up(pytest.fail.Exception(), marks.what_is_missing)
    try:
        running = labs.acquire(request.param)
    except BenchscaleError as error:
        outcome = pytest.skip.Exception() if labs.skips(error) else pytest.fail.Exception()
        explain = partial(labs.explain, request.param, error)
        reporting.give_up(outcome, lambda item: explain(item.nodeid))
    yield running
    labs.release(request.param)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show of our errors what they say; show of a failed test's lab what happened in it."""
    if "pytest_benchscale.errors" not in sys.modules:
        return (yield)
    from pytest_benchscale import reporting

    reporting.prepare(call, item)
    report = yield
    reporting.complete(report, item, call, item.config.stash.get(SESSION, None))
    return report


@pytest.hookimpl(trylast=True)  # after the fixtures
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take down what is left, and fail the run when something could not be taken down."""
    if (labs := session.config.stash.get(SESSION, None)) is None:
        return
    labs.close()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["benchscale"] = labs.message()
    elif labs.outcome.teardown_errors and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker has to tell."""
    if outcome := getattr(node, "workeroutput", {}).get("benchscale"):
        _session(node.config).outcome.merge(outcome)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show what the tests' own results do not: skips for want of something, failed teardowns."""
    if SESSION not in config.stash:
        return
    from pytest_benchscale import reporting

    quiet = config.get_verbosity() < 0
    reporting.show(terminalreporter, config.stash[SESSION].outcome.sections(quiet=quiet))
