"""What a terminal in a node promises."""

from __future__ import annotations

import asyncio

import pytest

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.terminal import NodeTerminal
from pytest_benchscale.testing.base import Contract, count_sleeping, unique_seconds, until_sleeping

__all__ = ["TerminalContract"]

PROMPT = "ready: "
SECONDS = 30


class TerminalContract(Contract):
    """Terminals: devices, sizes, job control, ends."""

    async def test_a_command_has_a_terminal_of_its_size_and_kind(self, node: Node) -> None:
        command = 'tty; stty size; echo "$TERM"; echo to stderr >&2; exit 7'
        async with node.terminal(command, size=(33, 101), term="vt220") as terminal:
            shown = await _everything(terminal)
            assert await terminal.wait() == 7
        assert shown.split("\r\n")[0].startswith("/dev/")
        assert shown.split("\r\n")[1:] == ["33 101", "vt220", "to stderr", ""]

    async def test_a_shell_is_at_home_and_its_exit_code_comes_back(self, node: Node) -> None:
        async with node.terminal() as terminal:
            await _prompt(terminal)
            home = '[ "$PWD" -ef ~ ] && echo at-home-$((1 + 1))'
            assert "at-home-2" in await _enter(terminal, home)
            await terminal.send("exit 7\r")
            assert await terminal.wait() == 7

    async def test_a_shell_does_not_complain_of_its_terminal(self, node: Node) -> None:
        async with node.terminal() as terminal:
            shown = await _prompt(terminal)
        assert "job control" not in shown
        assert "cannot" not in shown

    async def test_a_resize_is_seen_by_what_runs(self, node: Node) -> None:
        async with node.terminal() as terminal:
            await _prompt(terminal)
            await terminal.resize(41, 121)
            async with asyncio.timeout(SECONDS):
                while "41 121" not in await _enter(terminal, "stty size"):
                    await asyncio.sleep(0.05)

    async def test_ctrl_c_ends_what_is_in_the_foreground_and_nothing_else(self, node: Node) -> None:
        seconds = unique_seconds()
        async with node.terminal() as terminal:
            await _prompt(terminal)
            await terminal.send(f"sleep {seconds}\r")
            await until_sleeping(node, seconds)
            await terminal.send("\x03")
            await terminal.receive_until(PROMPT + "$", timeout=SECONDS)
            await until_sleeping(node, seconds, 0)
            assert "130" in await _enter(terminal, "echo $?")

    async def test_jobs_are_stopped_and_brought_back(self, node: Node) -> None:
        seconds = unique_seconds()
        async with node.terminal() as terminal:
            await _prompt(terminal)
            await terminal.send(f"sleep {seconds}\r")
            await until_sleeping(node, seconds)
            await terminal.send("\x1a")
            await terminal.receive_until(PROMPT + "$", timeout=SECONDS)
            assert "Stopped" in await _enter(terminal, "jobs")
            assert "Running" in await _enter(terminal, "bg; jobs")
            await terminal.send("fg\r")
            await terminal.receive_until(f"sleep {seconds}\r\n", timeout=SECONDS)
            await asyncio.sleep(0.2)  # for the shell to hand the terminal over: nothing shows that
            await terminal.send("\x03")
            await terminal.receive_until(PROMPT + "$", timeout=SECONDS)
            assert await count_sleeping(node, seconds) == 0

    async def test_what_is_typed_arrives_byte_for_byte(self, node: Node) -> None:
        async with node.terminal() as terminal:
            await _prompt(terminal)
            assert "caf\u00e9 \u65e5\u672c \U0001f600" in await _enter(
                terminal, "printf '%s\\n' 'caf\u00e9 \u65e5\u672c \U0001f600'"
            )

    async def test_erasing_takes_a_whole_character(self, node: Node) -> None:
        async with node.terminal("echo go; read line; printf '<%s>' \"$line\"") as terminal:
            await terminal.receive_until("go")
            await terminal.send("caf\u00e9\x7f\x7fx\r")
            assert "<cax>" in await _everything(terminal)

    async def test_much_output_comes_whole(self, node: Node) -> None:
        async with node.terminal("stty -opost; head -c 3000000 /dev/zero | tr '\\0' x") as terminal:
            shown = await _everything(terminal)
            assert await terminal.wait() == 0
        assert shown == "x" * 3_000_000

    async def test_nothing_is_left_running_when_a_terminal_is_closed_by_force(
        self, node: Node
    ) -> None:
        seconds = unique_seconds()
        async with node.terminal() as terminal:
            await _prompt(terminal)
            await terminal.send(f"sleep {seconds} & (trap '' HUP; setsid sleep {seconds}) &\r")
            await until_sleeping(node, seconds, 2)
            await terminal.send(f"sh -c 'trap \"\" HUP INT TERM; sleep {seconds}; true'\r")
            await until_sleeping(node, seconds, 3)
        assert await count_sleeping(node, seconds) == 0

    async def test_a_shell_that_leaves_a_job_behind_ends_all_the_same(self, node: Node) -> None:
        seconds = unique_seconds()
        command = f"trap '' HUP; sleep {seconds} & echo $!; exit 3"
        async with node.terminal(command) as terminal, asyncio.timeout(SECONDS):
            job = await _everything(terminal)
            assert await terminal.wait() == 3
        assert await count_sleeping(node, seconds) == 1
        await node.exec(f"kill {job.strip()}", check=True)

    async def test_a_command_that_is_not_there_says_so(self, node: Node) -> None:
        async with node.terminal(["no-such-command"]) as terminal:
            assert "no-such-command" in await _everything(terminal)
            assert await terminal.wait() == 127
            with pytest.raises(LabError, match="ended"):
                await terminal.send("x")

    async def test_several_terminals_do_not_mix(self, node: Node) -> None:
        async with node.terminal("tty; read x; echo one") as one, node.terminal("tty") as two:
            first, second = await one.receive_until("\r\n"), await _everything(two)
            assert first.strip() != second.strip()
            await one.send("\r")
            assert "one" in await _everything(one)


async def _prompt(terminal: NodeTerminal) -> str:
    """Wait until the shell is there, and give it a prompt that is known; return what was shown."""
    await terminal.send("PS1='ready'': '; PROMPT_COMMAND=\r")
    return await terminal.receive_until(f"\n[^\n]*{PROMPT}$", timeout=SECONDS)


async def _enter(terminal: NodeTerminal, line: str) -> str:
    """Type a line, and return what is shown until the next prompt."""
    await terminal.send(f"{line}\r")
    return await terminal.receive_until(f"\n[^\n]*{PROMPT}$", timeout=SECONDS)


async def _everything(terminal: NodeTerminal) -> str:
    """Return what the terminal shows until the command has ended."""
    shown = b""
    while data := await terminal.receive():
        shown += data
    return shown.decode()
