"""What needs a kernel with netem is skipped without one, unless it must not be; figures end in a table."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from pytest_benchscale.backends.kernel import has_netem
from tests.netem.measuring import Table

MUST_RUN = "BENCHSCALE_TEST_NETEM"  # =required
_TABLE = pytest.StashKey[Table]()


def why_not() -> str:
    """Return why nothing here can run, or nothing."""
    try:
        return "" if has_netem() else "this kernel has no netem"
    except OSError as error:
        return f"whether this kernel has netem cannot be tried: {error}"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip before a lab is built that could not be."""
    reason = why_not()
    if not reason:
        return
    if os.environ.get(MUST_RUN) == "required":
        raise pytest.UsageError(f"{reason}, and {MUST_RUN}=required")
    for item in items:
        if "tests/netem/" in item.path.as_posix():
            item.add_marker(
                pytest.mark.skip(
                    reason=f"{reason}: scripts/netem-tests has one, in a virtual machine"
                )
            )


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Collect what was measured."""
    return pytestconfig.stash.setdefault(_TABLE, Table())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    table = config.stash.get(_TABLE, None)
    if table is not None and table.rows:
        terminalreporter.section("declared and measured")
        for line in table.lines():
            terminalreporter.write_line(line)
