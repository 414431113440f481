"""What the tests of this directory share."""

from __future__ import annotations

from tests.daemons.hooks import nothing_left_in_daemons, pytest_configure, pytest_runtest_setup

__all__ = ["nothing_left_in_daemons", "pytest_configure", "pytest_runtest_setup"]
