"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot for the first time. So the tests that bring up
machines of their own run only when they are asked for; those that share some always do.
"""

from __future__ import annotations

import os

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.guests import boot_reference

pytestmark = pytest.mark.daemon("libvirt")

IMAGE = boot_reference()
SHARED = frozenset({"pair", "mortals"})  # fixtures: two machines each


class TestLibvirt(BackendContract):
    backend = "libvirt"
    image = IMAGE

    @pytest.fixture(autouse=True)
    def _affordable(self, request: pytest.FixtureRequest) -> None:
        if os.environ.get("BENCHSCALE_TEST_VMS") != "all" and not SHARED & {*request.fixturenames}:
            pytest.skip("boots machines of its own, which takes long: BENCHSCALE_TEST_VMS=all")
