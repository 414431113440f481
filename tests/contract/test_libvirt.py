"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot, and has a tenth of a processor's speed. So what
brings up machines of its own, or needs much of one, runs only when it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.testing import BackendContract
from pytest_benchscale.testing.base import PAIR
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
    side_by_side = 2  # more machines than processors do not boot at once
    slack = 15  # of a first boot

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, _backend_under_test: None) -> Iterator[Lab]:
        """Two machines, which remember how they were: they are up in every run."""
        with cls.open_resettable(PAIR) as lab:
            yield lab

    async def test_a_pair_is_led_back_with_its_memory(self, pair: Lab) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        booted = "cat /proc/sys/kernel/random/boot_id"
        boots = await pair.exec(booted, check=True)
        await alpha.exec("echo more > /srv/more; setsid sleep 86399 &", check=True)
        await beta.pause()
        await pair.reset()
        assert (await alpha.exec("ls /srv; pgrep -fx 'sleep 86399'")).stdout == ""
        assert beta.status is NodeStatus.RUNNING
        again = await pair.exec(booted, check=True)
        assert {name: one.stdout for name, one in again.items()} == {
            name: one.stdout for name, one in boots.items()
        }
        clocks = await pair.exec("date +%s", check=True)
        assert all(abs(time.time() - int(one.stdout)) < 10 for one in clocks.values())
        drawn = await pair.exec("cat /proc/sys/kernel/random/uuid", check=True)
        assert len({one.stdout for one in drawn.values()}) == 2
        assert await pair.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}

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
