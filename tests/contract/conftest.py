"""What the tests on real backends share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.daemons.hooks import nothing_left_in_daemons, pytest_configure, pytest_runtest_setup

__all__ = ["nothing_left_in_daemons", "pytest_configure", "pytest_runtest_setup"]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip what a class puts off, before anything of it is set up."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.cls, "put_off"):
            reason = item.cls.put_off(item)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
