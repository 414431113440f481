"""What a deadline and a cancellation do: nothing of the command survives inside the node."""

from __future__ import annotations

import asyncio
import time

import pytest

from pytest_benchscale.errors import CommandTimeout
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import (
    MIB,
    Contract,
    count_sleeping,
    unique_seconds,
    until_sleeping,
)

__all__ = ["DeadlineContract"]

FAMILIES = {
    "the command itself": "exec sleep {seconds}",
    "children": "sleep {seconds} & sleep {seconds} & wait",
    "grandchildren": "sh -c 'sh -c \"sleep {seconds}; true\"; true'; true",
    "a child in a session of its own": "setsid sleep {seconds} & wait",
    "a daemon": "(setsid sleep {seconds} </dev/null >/dev/null 2>&1 &); sleep {seconds}",
    "what keeps forking daemons": "while :; do (setsid sleep {seconds} &); sleep 0.01; done",
    "what ignores SIGTERM": "trap '' TERM HUP INT; sleep {seconds}; sleep {seconds}",
    "200 children": "i=0; while [ $i -lt 200 ]; do sleep {seconds} & i=$((i+1)); done; wait",
}
"""Shell scripts, by what of them must be gone after a timeout."""


class DeadlineContract(Contract):
    """Timeouts and cancelling."""

    async def test_a_timeout_raises_with_the_output_so_far(self, node: Node) -> None:
        started = time.monotonic()
        with pytest.raises(CommandTimeout, match="after 2 s") as caught:
            await node.exec(f"echo out; echo err >&2; sleep {unique_seconds()}", timeout=2)
        assert time.monotonic() - started < 10
        assert (caught.value.node, caught.value.timeout) == (node.name, 2)
        result = caught.value.result
        assert (result.stdout, result.stderr) == ("out\n", "err\n")
        assert result.duration >= 2

    @pytest.mark.parametrize("family", FAMILIES)
    async def test_a_timeout_kills_inside_the_node(self, node: Node, family: str) -> None:
        seconds = unique_seconds()
        script = FAMILIES[family].format(seconds=seconds)
        with pytest.raises(CommandTimeout):
            await node.exec(script, timeout=0.5)
        assert await count_sleeping(node, seconds) == 0

    async def test_a_timeout_kills_a_daemon_that_dropped_its_environment(self, node: Node) -> None:
        seconds = unique_seconds()
        with pytest.raises(CommandTimeout):
            await node.exec(f"(env -i setsid sleep {seconds} &); sleep {seconds}", timeout=0.5)
        assert await count_sleeping(node, seconds) == 0

    @pytest.mark.parametrize("family", FAMILIES)
    async def test_cancelling_kills_inside_the_node(self, node: Node, family: str) -> None:
        seconds = unique_seconds()
        script = FAMILIES[family].format(seconds=seconds)
        task = asyncio.create_task(node.exec(script))
        async with asyncio.timeout(10):
            while not await count_sleeping(node, seconds):
                assert not task.done()
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await count_sleeping(node, seconds) == 0

    async def test_cancelling_at_any_moment_leaves_nothing(self, node: Node) -> None:
        seconds = unique_seconds()
        for milliseconds in range(0, 20, 2):
            task = asyncio.create_task(node.exec(["sleep", seconds]))
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await count_sleeping(node, seconds) == 0

    async def test_a_deadline_of_the_test_itself_ends_the_command(self, node: Node) -> None:
        seconds = unique_seconds()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await node.exec(["sleep", seconds])
        assert await count_sleeping(node, seconds) == 0

    async def test_input_that_is_not_read_does_not_outlast_a_timeout(self, node: Node) -> None:
        seconds = unique_seconds()
        with pytest.raises(CommandTimeout):
            await node.exec(["sleep", seconds], input=bytes(10 * MIB), timeout=0.5)
        assert await count_sleeping(node, seconds) == 0

    async def test_endless_output_does_not_outlast_a_timeout(self, node: Node) -> None:
        with pytest.raises(CommandTimeout) as caught:
            await node.exec("while :; do echo again; done", timeout=2)
        assert caught.value.result.stdout.startswith("again\nagain\n")

    async def test_a_timeout_does_not_touch_other_commands(self, node: Node) -> None:
        daemon = unique_seconds()
        await node.exec(f"sleep {daemon} &", check=True)
        await until_sleeping(node, daemon)
        bystander = asyncio.create_task(node.exec("sleep 1; echo done"))
        with pytest.raises(CommandTimeout):
            await node.exec(f"sleep {unique_seconds()} & wait", timeout=0.3)
        assert (await bystander).stdout == "done\n"
        assert await count_sleeping(node, daemon) == 1

    async def test_the_node_answers_after_a_timeout(self, node: Node) -> None:
        with pytest.raises(CommandTimeout):
            await node.exec(f"sleep {unique_seconds()}", timeout=0.2)
        assert (await node.exec("echo here", timeout=10)).stdout == "here\n"

    async def test_a_command_that_ends_in_time_is_no_timeout(self, node: Node) -> None:
        assert (await node.exec("sleep 0.3; echo done", timeout=20)).stdout == "done\n"
        assert (await node.exec("echo done", timeout=None)).stdout == "done\n"
