"""The contract, on the embedded backend."""

from __future__ import annotations

from pytest_benchscale.testing import BackendContract


class TestLocal(BackendContract):
    backend = "local"
