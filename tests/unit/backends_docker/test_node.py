"""What is known of a container, from its events and from its state."""

from __future__ import annotations

import pytest

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.backends.docker.node import DockerNode, how_it_ended, nanoseconds
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.topology.loader import load_text

STARTED = "2025-01-31T12:00:10.5Z"
AT = nanoseconds(STARTED)
STATE = {"StartedAt": STARTED, "Pid": 4711}


@pytest.fixture
def node() -> DockerNode:
    plan = build_plan(load_text("nodes: [{name: a}]"), "docker", LabOptions())
    return DockerNode(plan.nodes[0])


def test_news_of_its_end_make_it_dead(node):
    node.started(STATE)
    assert node.info().status is NodeStatus.RUNNING
    node.died(AT + 5, "it fell")
    assert node.info().status is NodeStatus.DEAD
    assert node.info().reason == "it fell"
    assert node.ended.is_set()


def test_news_of_an_earlier_end_do_not(node):
    node.started(STATE)
    node.died(AT - 5, "before")
    assert node.info().status is NodeStatus.RUNNING


def test_news_that_were_faster_than_the_answer_to_the_start_count(node):
    node.died(AT + 5, "at once")
    node.started(STATE)
    assert node.info().status is NodeStatus.DEAD


def test_what_was_stopped_does_not_die(node):
    node.started(STATE)
    node.status = NodeStatus.STOPPED
    node.died(AT + 5, "by the stop")
    assert node.info().status is NodeStatus.STOPPED


def test_a_stop_that_failed_leaves_it_running_or_as_dead_as_it_is(node):
    node.started(STATE)
    node.status = NodeStatus.STOPPED
    node.still(NodeStatus.RUNNING)
    assert node.info().status is NodeStatus.RUNNING
    node.status = NodeStatus.STOPPED
    node.died(AT + 5, "meanwhile")
    node.still(NodeStatus.RUNNING)
    assert node.info().status is NodeStatus.DEAD


def test_want_of_memory_is_part_of_the_reason(node):
    node.started(STATE)
    node.ran_out_of_memory(AT + 1)
    node.died(AT + 2, "it was killed")
    assert "want of memory" in str(node.info().reason)


@pytest.mark.parametrize(
    "state", [{"Running": True, "Paused": True}, {"Running": False, "ExitCode": 3}]
)
def test_its_state_is_taken_over_when_news_were_missed(node, state):
    node.started(STATE)
    node.seen({"FinishedAt": "2025-01-31T12:00:20Z", **state})
    expected = NodeStatus.PAUSED if state["Running"] else NodeStatus.DEAD
    assert node.info().status is expected


def test_a_container_that_is_gone_is_dead(node):
    node.started(STATE)
    node.gone()
    assert node.info().reason == "its container was removed"


def test_ends_are_told_from_events_and_from_states():
    assert how_it_ended({"exitCode": "3"}) == "its main process ended with exit code 3"
    assert "want of memory" in how_it_ended({"ExitCode": 137, "OOMKilled": True})
    assert how_it_ended({"ExitCode": 1, "Error": "no such file"}).endswith("no such file")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        ("1970-01-01T02:00:01.000000001+02:00", 1_000_000_001),
        ("", 0),
        ("0001-01-01T00:00:00Z", -62135596800 * 10**9),
    ],
)
def test_times_keep_their_nanoseconds(text, expected):
    assert nanoseconds(text) == expected
