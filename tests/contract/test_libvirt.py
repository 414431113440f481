"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot, and has a tenth of a processor's speed. So what
brings up machines of its own, or needs much of one, runs only when it is asked for.
"""

from __future__ import annotations

import os

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.guests import boot_reference

pytestmark = pytest.mark.daemon("libvirt")

IMAGE = boot_reference()
SHARED = "pair"  # the fixture of two machines
HEAVY = {
    "test_50_at_once_on_one_node_give_50_right_results",
    "test_100_mib_of_stdout_arrive_without_deadlock",
    "test_100_mib_go_in_and_come_out_unchanged",
    "test_a_timeout_kills_inside_the_node[200 children]",
    "test_cancelling_kills_inside_the_node[200 children]",
    "test_many_processes_run_side_by_side",
}


class TestLibvirt(BackendContract):
    backend = "libvirt"
    image = IMAGE

    @pytest.fixture(autouse=True)
    def _affordable(self, request: pytest.FixtureRequest) -> None:
        if os.environ.get("BENCHSCALE_TEST_VMS") == "all":
            return
        if SHARED not in request.fixturenames:
            pytest.skip("boots machines of its own, which takes long: BENCHSCALE_TEST_VMS=all")
        if request.node.name in HEAVY:
            pytest.skip("takes long on an emulated machine: BENCHSCALE_TEST_VMS=all")
