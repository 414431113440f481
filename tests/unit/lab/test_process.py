"""Background processes."""

from __future__ import annotations

import asyncio
import signal

import anyio
import pytest

from pytest_benchscale.errors import LabError, NodeDied, WaitTimeout
from pytest_benchscale.lab import process as process_module
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.lines import KEPT_LINES, LONGEST_LINE, LineLog
from tests.fake_backend import Script


def _alive(script: Script, node: str = "a") -> int:
    return sum(not task.done() for task in script.node(node).tasks)


async def test_lines_of_both_streams_are_iterated_while_it_runs(lab: Lab) -> None:
    async with lab["a"].process("echo one; echo err >&2; echo two; sleep 100") as process:
        assert await anext(process.stdout) == "one"
        assert await anext(process.stderr) == "err"
        assert await anext(process.stdout) == "two"
        assert process.returncode is None


async def test_an_iteration_ends_with_the_process_and_gives_every_line(lab: Lab) -> None:
    async with lab["a"].process("flood 5000 words; echo -n rest") as process:
        lines = [line async for line in process.stdout]
        assert lines == ["words"] * 5000 + ["rest"]
        assert await process.wait(timeout=5) == 0
        assert process.returncode == 0


async def test_a_left_loop_goes_on_where_it_stopped(lab: Lab) -> None:
    async with lab["a"].process("echo 1; echo 2; echo 3") as process:
        async for line in process.stdout:
            if line == "2":
                break
        assert [line async for line in process.stdout] == ["3"]


async def test_a_cancelled_read_loses_no_line(lab: Lab) -> None:
    async with lab["a"].process("sleep 0.1; echo late") as process:
        with anyio.move_on_after(0.01):
            await anext(process.stdout)
        assert await anext(process.stdout) == "late"


async def test_leaving_the_block_ends_it_with_its_children(lab: Lab, script: Script) -> None:
    async with lab["a"].process("sleep 100 & sleep 100") as process:
        await asyncio.sleep(0.02)
        assert _alive(script) == 2
    assert _alive(script) == 0
    assert process.returncode == -signal.SIGTERM


async def test_an_error_in_the_block_ends_it_too(lab: Lab, script: Script) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lab["a"].process("sleep 100"):
            raise ZeroDivisionError
    assert _alive(script) == 0


async def test_cancelling_the_block_ends_it_too(lab: Lab, script: Script) -> None:
    with anyio.move_on_after(0.05):
        async with lab["a"].process("sleep 100"):
            await anyio.sleep_forever()
    assert _alive(script) == 0


async def test_what_ignores_sigterm_is_killed(
    lab: Lab, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "GRACE", 0.1)
    async with lab["a"].process("trap '' TERM; echo up; sleep 100") as process:
        await process.wait_for_line("up")
    assert process.returncode == -signal.SIGKILL
    assert _alive(script) == 0


async def test_a_chatty_process_never_blocks_and_its_end_is_kept(lab: Lab) -> None:
    async with lab["a"].process(f"flood {KEPT_LINES * 3} chat; echo end") as process:
        assert await process.wait(timeout=20) == 0
        lines = [line async for line in process.stdout]
    assert len(lines) == KEPT_LINES
    assert lines[-1] == "end"


async def test_wait_for_line_looks_from_the_beginning_and_in_both_streams(lab: Lab) -> None:
    async with lab["a"].process("echo port 80; echo ready >&2; sleep 100") as process:
        assert (await process.wait_for_line("ready")).string == "ready"
        match = await process.wait_for_line(r"port (\d+)")
        assert match[1] == "80"


async def test_wait_for_line_waits_for_a_line_to_come(lab: Lab) -> None:
    async with lab["a"].process("sleep 0.1; echo ready; sleep 100") as process:
        assert (await process.wait_for_line("ready", timeout=5)).string == "ready"


async def test_wait_for_line_gives_up_and_shows_the_last_lines(lab: Lab) -> None:
    async with lab["a"].process("echo starting; echo -n half; sleep 100") as process:
        with pytest.raises(WaitTimeout, match=r"matches 'ready'[\s\S]*starting\nhalf"):
            await process.wait_for_line("ready", timeout=0.1)


async def test_wait_for_line_fails_at_once_when_the_process_has_ended(lab: Lab) -> None:
    async with lab["a"].process("sleep 0.05; echo no luck >&2; exit 3") as process:
        for _ in range(2):  # while it runs, and after its end
            with pytest.raises(LabError, match=r"exit code 3 on node 'a'[\s\S]*no luck"):
                await process.wait_for_line("ready", timeout=60)


async def test_wait_has_a_timeout(lab: Lab) -> None:
    async with lab["a"].process("echo busy; sleep 100") as process:
        await process.wait_for_line("busy")
        with pytest.raises(WaitTimeout, match=r"the end of echo busy[\s\S]*busy"):
            await process.wait(timeout=0.05)


async def test_signals_reach_the_process(lab: Lab) -> None:
    async with lab["a"].process("sleep 100") as process:
        await process.send_signal(signal.SIGUSR1)
        assert await process.wait(timeout=5) == -signal.SIGUSR1
        await process.send_signal(signal.SIGUSR1)  # nothing happens any more
    async with lab["a"].process("sleep 100") as process:
        await process.terminate()
        assert await process.wait(timeout=5) == -signal.SIGTERM
    async with lab["a"].process("sleep 100") as process:
        await process.kill()
        assert await process.wait(timeout=5) == -signal.SIGKILL


async def test_standard_input_can_be_written_and_closed(lab: Lab) -> None:
    async with lab["a"].process("cat", stdin=True) as process:
        await process.write("one\n")
        assert await anext(process.stdout) == "one"
        await process.write(b"two\n")
        await process.close_stdin()
        assert await process.wait(timeout=5) == 0
        assert [line async for line in process.stdout] == ["two"]
        with pytest.raises(LabError, match="no longer reads"):
            await process.write("three\n")


async def test_without_stdin_there_is_nothing_to_write_to(lab: Lab) -> None:
    async with lab["a"].process("sleep 9") as process:
        with pytest.raises(LabError, match="stdin=True"):
            await process.write("x")


async def test_a_process_whose_node_dies_tells_it(lab: Lab) -> None:
    async with lab["a"].process("echo up; sleep 100") as process:
        await process.wait_for_line("up")
        waiting = asyncio.create_task(process.wait_for_line("never", timeout=60))
        await asyncio.sleep(0.02)
        with pytest.raises(NodeDied):
            await lab["a"].exec("die of boredom")
        with pytest.raises(NodeDied, match="of boredom"):
            await waiting
        with pytest.raises(NodeDied, match="of boredom"):
            await process.wait(timeout=60)


async def test_a_missing_program_is_a_process_that_ended_with_127(lab: Lab) -> None:
    async with lab["a"].process(["no-such-program"]) as process:
        assert await process.wait(timeout=5) == 127
        assert [line async for line in process.stderr] == ["no-such-program: not found"]


async def test_a_process_is_used_in_its_block_and_once(lab: Lab) -> None:
    process = lab["a"].process("true")
    with pytest.raises(LabError, match="was not started"):
        await process.wait()
    async with process:
        pass
    with pytest.raises(LabError, match="was started before"):
        await process.__aenter__()


async def test_a_process_is_in_the_history_from_its_start_to_its_end(lab: Lab) -> None:
    async with lab["a"].process(["sleep", "100"]):
        assert [one.outcome for one in lab.history] == ["started in the background"]
    assert [one.outcome for one in lab.history] == ["started in the background", "signal SIGTERM"]


def test_long_lines_are_broken_up_and_memory_stays_bounded() -> None:
    lines: list[str] = []
    log = LineLog(lines.append)
    for _ in range(40):
        log.feed(b"x" * (LONGEST_LINE - 1))
    log.end()
    assert max(map(len, lines)) == LONGEST_LINE
    assert sum(map(len, lines)) == 40 * (LONGEST_LINE - 1)
    assert sum(map(len, log.lines)) <= 17 << 20


def test_lines_are_text_without_their_ending() -> None:
    lines: list[str] = []
    log = LineLog(lines.append)
    for chunk in (b"a\r\nb", b"c\n\nd\xff", b"e\n", b"rest"):
        log.feed(chunk)
    assert log.tail()[-1] == "rest"
    log.end()
    assert lines == ["a", "bc", "", "d\N{REPLACEMENT CHARACTER}e", "rest"]
