"""The contract, on the backend in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.testing import BackendContract
from tests.fake_backend import Script, make_backend


class TestFake(BackendContract):
    backend = "fake"
    python = None

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _registered(cls) -> Iterator[None]:
        registry.register("fake", make_backend(Script()))
        yield
        registry.unregister("fake")
