"""What pytest's reports show of our errors: what they say, and the user's own lines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import pytest

import pytest_benchscale
from pytest_benchscale.errors import BenchscaleError

if TYPE_CHECKING:
    from pytest_benchscale.lab.session import LabRequest, LabSession

__all__ = ["ProgressLine", "complete", "give_up", "prepare", "show"]

_MACHINERY = (pytest_benchscale, anyio, asyncio, concurrent.futures, contextlib, threading)
_PLACES = tuple(
    f"{path.parent}/" if path.name == "__init__.py" else str(path)
    for path in (Path(str(module.__file__)) for module in _MACHINERY)
)
_TESTS = f"{Path(__file__).parent / 'testing'}/"  # a suite for backends: what fails there is a test


def give_up(outcome: Any, words: Callable[[pytest.Item], str]) -> NoReturn:
    """End the fixture of a whole session with a `Failed` or `Skipped` that has its own words for each test.

    pytest keeps the exception of a fixture and raises it again for every further test that uses the
    fixture; each shall be told what concerns it.
    """
    outcome.pytrace = False
    outcome.words_for = words
    raise outcome from None


class ProgressLine:
    """How far long work has come, on one line of the terminal; nothing where nobody looks at one.

    `show` may be called from the thread of the labs, while that of the tests waits for it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = False

    def show(self, line: str) -> None:
        """Show how far it is, in place of what was shown before."""
        with self._terminal() as terminal:
            if terminal is not None:
                if not self._shown:
                    terminal.ensure_newline()
                width = self._config.get_terminal_writer().fullwidth - 1
                terminal.rewrite(f"benchscale: {line}"[:width], erase=True)
                terminal.flush()
                self._shown = True

    def end(self) -> None:
        """Leave the line as it is: what comes is something else."""
        if self._shown:
            self._shown = False
            with self._terminal() as terminal:
                terminal.write("\n")

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[Any]:
        """Give the terminal itself, which pytest keeps from what the tests write; None: there is none."""
        plugins = self._config.pluginmanager
        terminal: Any = plugins.get_plugin("terminalreporter")
        capture: Any = plugins.get_plugin("capturemanager")
        if terminal is None or not terminal.isatty or self._config.get_verbosity() < 0:
            yield None
        else:
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                yield terminal


def show(terminal: Any, sections: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Show sections, each a title and its lines, at the end of a run."""
    for title, lines in sections:
        terminal.section(f"benchscale: {title}")
        for line in lines:
            terminal.line(line)


def prepare(call: pytest.CallInfo[None], item: pytest.Item) -> None:
    """Make the exception that ended a phase of a test ready to be shown."""
    error: Any = call.excinfo.value if call.excinfo else None
    if isinstance(error, (pytest.fail.Exception, pytest.skip.Exception)):
        if words := getattr(error, "words_for", None):
            error.msg = words(item)
    elif error is not None and not item.config.option.fulltrace:
        for one in _all_errors(error):
            _hide_our_frames(one)
        if isinstance(error, BenchscaleError):
            call.excinfo = pytest.ExceptionInfo.from_exception(error)


def complete(
    report: pytest.TestReport,
    item: pytest.Item,
    call: pytest.CallInfo[None],
    labs: LabSession,
    request: LabRequest,
) -> None:
    """Add to the report of a test with a lab what is known of that: as properties, and where it failed."""
    if report.when == "setup":
        _add(report, item, labs.properties(request))
    if report.failed and call.excinfo is not None:
        errors = list(_told(call.excinfo.value))
        told = labs.report(request, item.nodeid, report.when, errors)
        report.sections += told.sections
        if told.artifacts:
            _add(report, item, {"benchscale.artifacts": str(told.artifacts)})


def _add(report: pytest.TestReport, item: pytest.Item, properties: Mapping[str, str]) -> None:
    """Add properties to a report and to those that follow: the last one's are written down for a reader."""
    for pair in properties.items():
        if pair not in item.user_properties:  # the test may be run again
            item.user_properties.append(pair)
            report.user_properties.append(pair)


def _told(error: BaseException) -> Iterator[dict[str, Any]]:
    """Return an error as plain data, and after it those of ours that it came from."""
    ours = list(dict.fromkeys(_all_errors(error)))
    for one in ours if error in ours else [error, *ours]:
        yield {
            "type": type(one).__name__,
            "brief": getattr(one, "brief", None) or str(one),
            "details": getattr(one, "details", None),
            "resolution": getattr(one, "resolution", None),
            "node": getattr(one, "node", None),
            "step": getattr(one, "step", None),
            "notes": list(getattr(one, "__notes__", ())),
        }


def _all_errors(error: BaseException) -> Iterator[BenchscaleError]:
    """Return the errors of ours among an exception, those it groups, and those it came from."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BenchscaleError):
            yield one
        elif isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += filter(None, (one.__cause__, one.__context__))


def _hide_our_frames(error: BenchscaleError) -> None:
    """Cut our frames, and those of the libraries between, out of an error's traceback.

    The error says itself what led to it, so its cause goes, too.
    """
    error.__traceback__ = _without_machinery(error.__traceback__) or error.__traceback__
    error.__cause__ = None  # it hides the context, too


def _without_machinery(traceback: TracebackType | None) -> TracebackType | None:
    links = []
    while traceback is not None:
        links.append(traceback)
        traceback = traceback.tb_next
    for link in reversed(links):
        place = link.tb_frame.f_code.co_filename
        if place.startswith(_TESTS) or not place.startswith(_PLACES):
            traceback = TracebackType(traceback, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return traceback
