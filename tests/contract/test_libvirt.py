"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot, and has a tenth of a processor's speed. So what
brings up machines of its own, or needs much of one, runs only when it is asked for.
"""

from __future__ import annotations

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.guests import boot_reference
from tests.daemons.needs import BOOTS_ARE_CHEAP, WHEN_ASKED_FOR

pytestmark = pytest.mark.daemon("libvirt")

IMAGE = boot_reference()
SHARED = "pair"  # the fixture of two machines
HEAVY = {
    "test_50_at_once_on_one_node_give_50_right_results",
    "test_100_mib_of_stdout_arrive_without_deadlock",
    "test_100_mib_go_in_and_come_out_unchanged",
    "test_a_timeout_kills_inside_the_node[200 children]",
    "test_every_exit_code_is_the_true_one",
    "test_many_copies_at_once_do_not_disturb_each_other",
    "test_odd_names_are_kept",
    "test_cancelling_kills_inside_the_node[200 children]",
    "test_many_processes_run_side_by_side",
    # They boot a machine again.
    "test_a_node_may_end_in_a_partition",
    "test_a_partition_outlasts_a_restart",
    "test_a_partition_with_nothing_to_cut_is_an_error",
    "test_conditions_that_were_set_stay_over_a_restart_until_they_are_taken_back",
}


class TestLibvirt(BackendContract):
    backend = "libvirt"
    image = IMAGE

    @staticmethod
    def put_off(test: pytest.Function) -> str | None:
        """Return why a test does not run every time."""
        if BOOTS_ARE_CHEAP:
            return None
        if SHARED not in test.fixturenames:
            return WHEN_ASKED_FOR
        if test.name in HEAVY:
            return "takes long on an emulated machine: BENCHSCALE_TEST_VMS=all"
        return None
