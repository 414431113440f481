"""The contract, on the backend in memory: as much of it as a shell of a few words can keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.testing import BackendContract, TerminalContract
from tests.fake_backend import Script, make_backend

A_REAL_SHELL = [
    "test_a_line_of_half_a_mebibyte_is_one_line",
    "test_a_node_cannot_signal_what_is_outside",
    "test_a_string_goes_through_the_shell",
    "test_a_timeout_kills_inside_the_node[200 children]",
    "test_a_timeout_kills_inside_the_node[what keeps forking daemons]",
    "test_a_fault_that_is_cancelled_leaves_nothing",
    "test_processors_are_busy_for_a_block",
    "test_an_argv_is_passed_on_exactly_without_a_shell",
    "test_cancelling_kills_inside_the_node[200 children]",
    "test_cancelling_kills_inside_the_node[what keeps forking daemons]",
    "test_death_by_a_signal_is_a_negative_code",
    "test_endless_output_does_not_outlast_a_timeout",
    "test_env_is_passed_on_exactly",
    "test_leaving_lets_the_process_tidy_up_first",
    "test_send_signal_reaches_the_process",
]

A_REAL_SYSTEM = [
    "test_a_file_changed_in_a_node_stays_as_it_was_elsewhere",
    "test_a_file_of_proc_is_read_whole",
    "test_a_file_removed_in_a_node_stays_elsewhere",
    "test_a_network_without_internet_has_no_default_route",
    "test_a_node_has_a_usable_system",
    "test_kill_and_start_keep_addresses_interfaces_and_files",
    "test_pause_and_resume_keep_processes_addresses_and_files",
    "test_stop_and_start_keep_addresses_interfaces_and_files",
    "test_the_kernel_of_a_node_agrees_on_addresses_and_interfaces",
]

A_REAL_TERMINAL = [name for name in vars(TerminalContract) if name.startswith("test_")]


class TestFake(BackendContract):
    backend = "fake"
    python = None
    known_failures = dict.fromkeys(A_REAL_SHELL, "needs a real shell and its tools") | (
        dict.fromkeys(A_REAL_SYSTEM, "needs the files of a real system")
        | dict.fromkeys(A_REAL_TERMINAL, "needs the terminals of a real system")
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _registered(cls) -> Iterator[None]:
        registry.register("fake", make_backend(Script()))
        yield
        registry.unregister("fake")
