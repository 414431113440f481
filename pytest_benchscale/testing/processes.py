"""What `async with node.process(...)` promises."""

from __future__ import annotations

import asyncio
import signal

import pytest

from pytest_benchscale.errors import BenchscaleError, WaitTimeout
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import (
    MIB,
    Contract,
    count_sleeping,
    unique_seconds,
    until_sleeping,
)

__all__ = ["ProcessContract"]


class ProcessContract(Contract):
    """Background processes."""

    async def test_both_streams_are_iterators_of_lines(self, node: Node) -> None:
        script = "echo one; echo err >&2; echo; printf 'naïve \\377\\n'; printf 'no newline'"
        async with node.process(script) as process:
            out = [line async for line in process.stdout]
            err = [line async for line in process.stderr]
            assert await process.wait() == 0
        assert out == ["one", "", "naïve \ufffd", "no newline"]
        assert err == ["err"]

    async def test_lines_arrive_while_the_process_runs(self, node: Node) -> None:
        async with node.process(f"echo ready; exec sleep {unique_seconds()}") as process:
            async with asyncio.timeout(10):
                assert await anext(aiter(process.stdout)) == "ready"
            assert process.returncode is None

    async def test_a_line_of_half_a_mebibyte_is_one_line(self, node: Node) -> None:
        script = f"head -c {MIB // 2} /dev/zero | tr '\\0' x; echo; echo end"
        async with node.process(script) as process:
            lines = [line async for line in process.stdout]
        assert [len(line) for line in lines] == [MIB // 2, 3]

    async def test_an_argv_needs_no_shell(self, node: Node) -> None:
        async with node.process(["echo", "$HOME", "two  words"]) as process:
            assert [line async for line in process.stdout] == ["$HOME two  words"]

    async def test_env_and_cwd_are_those_asked_for(self, node: Node, inside: str) -> None:
        script = 'echo "$ROLE $EXTRA"; pwd'
        async with node.process(script, env={"EXTRA": "more"}, cwd=inside) as process:
            assert [line async for line in process.stdout] == ["first more", inside]

    async def test_wait_returns_the_true_exit_code(self, node: Node) -> None:
        async with node.process("exit 7") as process:
            assert await process.wait() == 7
            assert await process.wait() == 7
            assert process.returncode == 7

    async def test_a_missing_command_ends_with_127(self, node: Node) -> None:
        async with node.process(["no-such-command"]) as process:
            assert await process.wait() == 127
            assert [line async for line in process.stderr]

    async def test_wait_for_line_finds_a_line_in_either_stream(self, node: Node) -> None:
        script = f"echo listening on 80; echo warning 5 >&2; exec sleep {unique_seconds()}"
        async with node.process(script) as process:
            await process.wait_for_line(r"listening on \d+", timeout=10)
            await process.wait_for_line(r"^warning", timeout=10)
            await process.wait_for_line(r"listening", timeout=10)  # also when it was long ago

    async def test_wait_for_line_shows_the_last_lines_when_time_is_up(self, node: Node) -> None:
        async with node.process(f"echo booting; exec sleep {unique_seconds()}") as process:
            await process.wait_for_line("booting", timeout=10)
            with pytest.raises(WaitTimeout, match="booting") as caught:
                await process.wait_for_line("ready", timeout=0.3)
        assert caught.value.node == node.name

    async def test_wait_for_line_fails_at_once_when_the_process_has_ended(self, node: Node) -> None:
        async with node.process("echo cannot bind >&2; exit 1") as process:
            async with asyncio.timeout(10):
                with pytest.raises(BenchscaleError, match="cannot bind"):
                    await process.wait_for_line("ready", timeout=60)

    async def test_terminate_sends_sigterm(self, node: Node) -> None:
        async with node.process(["sleep", unique_seconds()]) as process:
            await process.terminate()
            assert await process.wait() == -signal.SIGTERM

    async def test_send_signal_reaches_the_process(self, node: Node) -> None:
        script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
        async with node.process(script) as process:
            await process.wait_for_line("ready", timeout=10)
            await process.send_signal(signal.SIGUSR1)
            await process.wait_for_line("got it", timeout=10)
            assert await process.wait() == 5

    async def test_a_signal_to_an_ended_process_does_nothing(self, node: Node) -> None:
        async with node.process("true") as process:
            await process.wait()
            await process.terminate()
            await process.send_signal(signal.SIGKILL)
            assert process.returncode == 0

    async def test_leaving_ends_the_process_and_its_children(self, node: Node) -> None:
        seconds = unique_seconds()
        script = f"setsid sleep {seconds} & sleep {seconds} & echo up; sleep {seconds}"
        async with node.process(script) as process:
            await process.wait_for_line("up", timeout=10)
            await until_sleeping(node, seconds, 3)
        assert await count_sleeping(node, seconds) == 0

    async def test_leaving_by_an_exception_ends_it_too(self, node: Node) -> None:
        seconds = unique_seconds()

        async def fail() -> None:
            async with node.process(f"sleep {seconds} & echo up; wait") as process:
                await process.wait_for_line("up", timeout=10)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await count_sleeping(node, seconds) == 0

    async def test_leaving_by_cancellation_ends_it_too(self, node: Node) -> None:
        seconds = unique_seconds()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), node.process(f"sleep {seconds} & wait") as process:
                await process.wait()
        assert await count_sleeping(node, seconds) == 0

    async def test_leaving_lets_the_process_tidy_up_first(self, node: Node, inside: str) -> None:
        script = (
            f"trap 'echo tidy > {inside}/log; exit' TERM; echo up; while :; do sleep 0.05; done"
        )
        async with node.process(script) as process:
            await process.wait_for_line("up", timeout=10)
        assert await node.read_text(f"{inside}/log") == "tidy\n"

    async def test_leaving_ends_also_what_ignores_sigterm(self, node: Node) -> None:
        seconds = unique_seconds()
        script = f"trap '' TERM; echo up; sleep {seconds}; sleep {seconds}"
        async with node.process(script) as process:
            await process.wait_for_line("up", timeout=10)
        assert await count_sleeping(node, seconds) == 0

    async def test_output_that_nobody_reads_does_not_block_the_process(self, node: Node) -> None:
        much = f"yes 'an ordinary line of a log, of which there are very many' | head -c {20 * MIB}"
        script = f"{much} >&2 & {much}; wait"
        async with node.process(script) as process:
            assert await process.wait() == 0

    async def test_many_processes_run_side_by_side(self, node: Node) -> None:
        async def one(number: int) -> list[str]:
            async with node.process(f"echo {number}; sleep 0.1; echo {number}") as process:
                return [line async for line in process.stdout]

        outputs = await asyncio.gather(*(one(number) for number in range(20)))
        assert outputs == [[str(number)] * 2 for number in range(20)]
