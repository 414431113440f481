"""`Node.exec`: the rules that hold on every backend because the lab keeps them."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import pytest

from pytest_benchscale.errors import (
    CommandFailed,
    CommandTimeout,
    LabError,
    NodeDied,
    NotSupported,
)
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command
from tests.fake_backend import Script, make_backend
from tests.fake_backend.node import FakeNode, FakeTransport
from tests.unit.lab.conftest import MakeLab


async def test_text_goes_through_a_shell_and_a_sequence_does_not(lab: Lab) -> None:
    assert (await lab["a"].exec("echo one; echo two >&2")).stdout == "one\n"
    assert (await lab["a"].exec(["echo", "one; echo $two"])).stdout == "one; echo $two\n"


async def test_the_result_holds_streams_code_command_and_time(lab: Lab) -> None:
    result = await lab["a"].exec("echo out; echo err >&2; exit 3")
    assert (result.stdout_bytes, result.stderr_bytes, result.returncode) == (b"out\n", b"err\n", 3)
    assert not result.ok
    assert result.command == "echo out; echo err >&2; exit 3"
    assert result.node == "a"
    assert 0 < result.duration < 5


async def test_input_is_text_or_bytes_and_ends(lab: Lab) -> None:
    assert (await lab["a"].exec("cat", input="grün")).stdout_bytes == "grün".encode()
    assert (await lab["a"].exec("cat", input=b"\0\xff")).stdout_bytes == b"\0\xff"
    assert (await lab["a"].exec("cat", input=b"")).stdout == ""
    big = bytes(range(256)) * 20_000
    assert (await lab["a"].exec("cat", input=big)).stdout_bytes == big


async def test_without_input_a_command_reads_nothing(lab: Lab) -> None:
    assert (await lab["a"].exec("cat", timeout=5)).stdout == ""


async def test_input_that_nobody_reads_does_not_block_the_result(lab: Lab) -> None:
    result = await lab["a"].exec("echo done", input=b"x" * 5_000_000, timeout=5)
    assert result.stdout == "done\n"


async def test_much_output_on_both_streams_does_not_block(lab: Lab) -> None:
    result = await lab["a"].exec("flood 100000 to stderr >&2; flood 100000 to stdout", timeout=20)
    assert len(result.stdout_bytes) == len(result.stderr_bytes) == 100_000 * 10


async def test_env_cwd_and_user_reach_the_command(lab: Lab) -> None:
    result = await lab["a"].exec(
        "echo $GREETING; pwd; id", env={"GREETING": "hi"}, cwd=PurePosixPath("/srv"), user=1000
    )
    assert result.stdout == "hi\n/srv\n1000\n"


async def test_check_raises_with_the_output(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match=r"exit code 3 on node 'a'[\s\S]*oops") as caught:
        await lab["a"].exec("echo oops; exit 3", check=True)
    assert caught.value.result.returncode == 3


async def test_a_timeout_raises_with_the_output_so_far(lab: Lab, script: Script) -> None:
    with pytest.raises(CommandTimeout, match=r"0\.1 s on node 'a'[\s\S]*early") as caught:
        await lab["a"].exec("echo early; sleep 100 & sleep 100", timeout=0.1)
    assert caught.value.result.stdout == "early\n"
    assert caught.value.result.returncode == -9
    assert caught.value.timeout == 0.1
    assert all(task.done() for task in script.node("a").tasks)


async def test_a_cancelled_exec_has_killed_its_command_when_it_returns(
    lab: Lab, script: Script
) -> None:
    with anyio.move_on_after(0.1) as scope:
        await lab["a"].exec("sleep 100 & sleep 100")
    assert scope.cancelled_caught
    assert all(task.done() for task in script.node("a").tasks)


async def test_a_background_child_neither_blocks_the_result_nor_is_killed(
    lab: Lab, script: Script
) -> None:
    result = await lab["a"].exec("sleep 100 & echo done", timeout=5)
    assert result.stdout == "done\n"
    assert sum(not task.done() for task in script.node("a").tasks) == 1


async def test_no_timeout_is_no_deadline(lab: Lab) -> None:
    assert (await lab["a"].exec("sleep 0.05", timeout=None)).ok


async def test_50_at_once_give_50_right_results(lab: Lab) -> None:
    node = lab["a"]
    results = await asyncio.gather(*(node.exec(f"echo {n}; exit {n}") for n in range(50)))
    assert [(result.stdout, result.returncode) for result in results] == [
        (f"{n}\n", n) for n in range(50)
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"command": ""}, ValueError, "empty"),
        ({"command": "  \n"}, ValueError, "empty"),
        ({"command": []}, ValueError, "empty"),
        ({"command": ["", "x"]}, ValueError, "empty"),
        ({"command": "a\0b"}, ValueError, "NUL"),
        ({"command": ["a", "b\0"]}, ValueError, "NUL"),
        ({"command": "\ud800"}, ValueError, "not valid text"),
        ({"command": b"true"}, TypeError, "not bytes"),
        ({"command": {"true"}}, TypeError, "not set"),
        ({"command": ["echo", 5]}, TypeError, "not int: 5"),
        ({"command": None}, TypeError, "not NoneType"),
        ({"timeout": 0}, ValueError, "positive"),
        ({"timeout": -1}, ValueError, "positive"),
        ({"timeout": math.nan}, ValueError, "positive"),
        ({"timeout": "5"}, TypeError, "not str"),
        ({"timeout": True}, TypeError, "not bool"),
        ({"env": {"A": 1}}, TypeError, "text only"),
        ({"env": {"A=B": ""}}, ValueError, "name"),
        ({"env": {"": "x"}}, ValueError, "name"),
        ({"env": {"A": "\0"}}, ValueError, "NUL"),
        ({"cwd": ""}, ValueError, "empty"),
        ({"cwd": 5}, TypeError, "not int"),
        ({"user": ""}, ValueError, "user"),
        ({"user": "-x"}, ValueError, "user"),
        ({"user": 1.5}, TypeError, "not float"),
        ({"input": 5}, TypeError, "not int"),
    ],
)
async def test_bad_arguments_are_refused_with_a_reason(
    lab: Lab, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"command": "true", **arguments}
    with pytest.raises(error, match=words):
        await lab["a"].exec(arguments.pop("command"), **arguments)


async def test_a_path_may_be_an_argument(lab: Lab) -> None:
    assert (await lab["a"].exec(["echo", Path("/x")])).stdout == "/x\n"


async def test_a_node_that_dies_under_a_command_is_an_error_with_its_log(lab: Lab) -> None:
    await lab["a"].exec("log the last words")
    with pytest.raises(NodeDied, match=r"'a' died: out of luck[\s\S]*the last words"):
        await lab["a"].exec("die out of luck")


async def test_a_node_that_is_stopped_under_a_command_says_so(lab: Lab) -> None:
    task = asyncio.create_task(lab["a"].exec("sleep 100"))
    await asyncio.sleep(0.05)
    await lab["a"].stop()
    with pytest.raises(LabError, match="stopped meanwhile"):
        await task


async def test_a_lab_that_goes_down_under_a_command_says_so(make_lab: MakeLab) -> None:
    lab = make_lab("a")
    await lab.up()
    task = asyncio.create_task(lab["a"].exec("sleep 100"))
    await asyncio.sleep(0.05)
    await lab.down()
    with pytest.raises(LabError, match="removed meanwhile"):
        await task


async def test_another_user_needs_a_backend_that_can(portal: Portal, script: Script) -> None:
    backend = make_backend(script, capabilities=frozenset())()
    lab = Lab(Topology.from_dict({"nodes": [{"name": "a"}]}), backend, portal=portal)
    await lab.up()
    with pytest.raises(NotSupported, match="'fake' does not support commands as another user"):
        await lab["a"].exec("true", user="nobody")
    await lab.down()


async def test_every_command_is_in_the_labs_history(lab: Lab) -> None:
    await lab["a"].exec("echo 'a b'")
    await lab["b"].exec(["sh", "-c", "exit 3"])
    with pytest.raises(CommandTimeout):
        await lab["a"].exec("sleep 9", timeout=0.05)
    with anyio.move_on_after(0.05):
        await lab["a"].exec("sleep 8")
    with pytest.raises(NodeDied):
        await lab["b"].exec("die now")
    assert [(one.node, one.command_line, one.outcome) for one in lab.history] == [
        ("a", "echo 'a b'", "exit code 0"),
        ("b", "sh -c 'exit 3'", "exit code 3"),
        ("a", "sleep 9", "timed out after 0.05 s"),
        ("a", "sleep 8", "cancelled"),
        ("b", "die now", "the node died"),
    ]
    assert all(0 < one.duration < 5 for one in lab.history)


async def test_exec_on_all_nodes_gives_a_result_for_each_in_file_order(lab: Lab) -> None:
    results = await lab.exec("hostname", check=True)
    assert [(name, result.stdout) for name, result in results.items()] == [
        ("a", "a\n"),
        ("b", "b\n"),
    ]


async def test_exec_on_all_nodes_reports_the_first_failure_and_notes_the_others(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match="node 'a'") as caught:
        await lab.exec("false", check=True)
    assert any("node 'b'" in note for note in caught.value.__notes__)


class Unkillable:
    """A command that cannot be killed, and a transport that starts nothing else."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node

    async def start(self, command: Command, *, stdin: bool = False) -> Any:
        running = await FakeTransport(self.node).start(command, stdin=stdin)

        async def kill_tree() -> None:
            await anyio.sleep_forever()

        running.kill_tree = kill_tree  # type: ignore[method-assign]
        return running


async def test_a_command_that_cannot_be_killed_does_not_hold_its_caller(
    lab: Lab, script: Script, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "KILL_DEADLINE", 0.1)
    transport: Any = Unkillable(script.node("a"))

    async def run() -> execution.Outcome:
        return await execution.run(transport, Command(("sleep", "9")), timeout=0.05)

    outcome = await portal.call(run)
    assert outcome.timed_out
    assert not outcome.killed
