"""The exec rules: what `await node.exec(...)` promises, the same on every backend."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import CommandFailed
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import (
    MIB,
    Contract,
    count_sleeping,
    requires,
    unique_seconds,
    until_sleeping,
)

__all__ = ["CommandContract"]

ALL_BYTES = bytes(range(256))

ODD_ARGUMENTS = [
    *["", " ", "two words", "  spaces  ", "tab\there", "new\nline", "\n", "trailing\n"],
    *["'", '"', "it's", '"quoted"', "back\\slash", "\\", "\\n", "%s", "%"],
    *["*", "?", "[a-z]", "~", "{a,b}", "$HOME", "${HOME}", "$(id)", "`id`", "!", "#"],
    *[";", "&", "&&", "|", ">", "<", "(", ")", "-n", "--", "--help", "="],
    *["é", "Ω", "世界", "🜁", "a\u0301", "\u202e"],
]
"""Arguments that a shell, or quoting of one's own, would change."""


class CommandContract(Contract):
    """One command, one result."""

    # --- output and input ---

    async def test_stdout_and_stderr_are_separate(self, node: Node) -> None:
        result = await node.exec("echo out; echo err >&2; echo out again")
        assert result.stdout == "out\nout again\n"
        assert result.stderr == "err\n"

    async def test_output_is_binary_safe(self, node: Node) -> None:
        octal = "".join(f"\\{byte:03o}" for byte in ALL_BYTES)
        result = await node.exec(["printf", octal])
        assert result.stdout_bytes == ALL_BYTES

    async def test_input_is_binary_safe(self, node: Node) -> None:
        result = await node.exec(["cat"], input=ALL_BYTES * 2)
        assert result.stdout_bytes == ALL_BYTES * 2

    async def test_input_may_be_text(self, node: Node) -> None:
        result = await node.exec(["cat"], input="naïve 世界\n")
        assert result.stdout == "naïve 世界\n"

    async def test_text_is_utf8_with_replacement(self, node: Node) -> None:
        result = await node.exec(["printf", "caf\\303\\251 \\377 end"])
        assert result.stdout == "café \ufffd end"
        assert result.stdout_bytes == b"caf\xc3\xa9 \xff end"

    async def test_a_command_without_output_gives_empty_streams(self, node: Node) -> None:
        result = await node.exec("true")
        assert (result.stdout_bytes, result.stderr_bytes) == (b"", b"")

    async def test_output_without_a_last_newline_is_complete(self, node: Node) -> None:
        result = await node.exec("printf 'no newline'; printf 'none here' >&2")
        assert (result.stdout, result.stderr) == ("no newline", "none here")

    async def test_without_input_a_command_reads_the_end_of_file_at_once(self, node: Node) -> None:
        assert (await node.exec(["cat"], timeout=10)).stdout_bytes == b""
        assert (await node.exec(["cat"], input=b"", timeout=10)).stdout_bytes == b""

    async def test_10_mib_go_through_cat_and_come_back(self, node: Node) -> None:
        data = ALL_BYTES * (10 * MIB // 256)
        result = await node.exec(["cat"], input=data)
        assert _digest(result.stdout_bytes) == _digest(data)

    async def test_input_that_the_command_does_not_read_is_no_error(self, node: Node) -> None:
        data = bytes(10 * MIB)
        assert (await node.exec("exit 3", input=data, timeout=20)).returncode == 3
        assert (await node.exec(["head", "-c", "1"], input=data, timeout=20)).stdout == "\0"

    async def test_100_mib_of_stdout_arrive_without_deadlock(self, node: Node) -> None:
        result = await node.exec(f"head -c {100 * MIB} /dev/zero; echo end >&2")
        assert len(result.stdout_bytes) == 100 * MIB
        assert result.stderr == "end\n"

    async def test_20_mib_on_both_streams_at_once_arrive_without_deadlock(self, node: Node) -> None:
        much = f"head -c {20 * MIB} /dev/zero"
        result = await node.exec(f"{much} >&2 & {much}; wait")
        assert len(result.stdout_bytes) == len(result.stderr_bytes) == 20 * MIB

    async def test_a_command_that_closes_its_streams_is_waited_for(self, node: Node) -> None:
        result = await node.exec("exec >&- 2>&-; sleep 0.3; exit 3")
        assert result.returncode == 3
        assert result.duration >= 0.3

    # --- exit codes ---

    async def test_every_exit_code_is_the_true_one(self, node: Node) -> None:
        for start in range(0, 256, 32):
            codes = range(start, start + 32)
            results = await asyncio.gather(*(node.exec(f"exit {code}") for code in codes))
            assert [result.returncode for result in results] == list(codes)

    async def test_death_by_a_signal_is_a_negative_code(self, node: Node) -> None:
        assert (await node.exec("kill -s KILL $$")).returncode == -9
        assert (await node.exec("kill -s TERM $$")).returncode == -15
        assert (await node.exec(["sh", "-c", "kill -s HUP $$"])).returncode == -1

    async def test_a_missing_command_is_127_with_a_word_on_stderr(self, node: Node) -> None:
        for command in ("no-such-command", ["no-such-command"], ["/no/such/command"]):
            result = await node.exec(command)
            assert result.returncode == 127
            assert "no" in result.stderr

    async def test_a_directory_as_command_is_126(self, node: Node, inside: str) -> None:
        for command in (inside, [inside]):
            result = await node.exec(command)
            assert result.returncode == 126
            assert inside in result.stderr

    async def test_a_file_that_is_not_executable_is_126(self, node: Node, inside: str) -> None:
        path = f"{inside}/script"
        await node.write_text(path, "#!/bin/sh\necho never\n")
        await node.exec(["chmod", "644", path], check=True)
        for command in (path, [path]):
            result = await node.exec(command)
            assert result.returncode == 126
            assert path in result.stderr

    async def test_check_raises_with_the_output_and_the_node(self, node: Node) -> None:
        with pytest.raises(CommandFailed, match="some reason") as caught:
            await node.exec("echo some reason >&2; exit 7", check=True)
        assert caught.value.node == node.name
        assert caught.value.result.returncode == 7

    async def test_the_result_tells_what_ran_where_and_how_long(self, node: Node) -> None:
        result = await node.exec("sleep 0.2")
        assert result.ok
        assert (result.command, result.node) == ("sleep 0.2", node.name)
        assert 0.2 <= result.duration < 10

    # --- arguments, environment, place, user ---

    async def test_an_argv_is_passed_on_exactly_without_a_shell(self, node: Node) -> None:
        result = await node.exec(["printf", "%s\\0", *ODD_ARGUMENTS])
        assert result.stdout.split("\0")[:-1] == ODD_ARGUMENTS

    async def test_a_string_goes_through_the_shell(self, node: Node) -> None:
        result = await node.exec(
            "x='two  words'; printf '%s|' $x \"$x\" | tr a-z A-Z && echo; echo é"
        )
        assert result.stdout == "TWO|WORDS|TWO  WORDS|\né\n"

    async def test_100_kb_of_argument_and_of_environment_fit(self, node: Node) -> None:
        big = "x" * 100_000
        assert (await node.exec(["printf", "%s", big])).stdout == big
        assert (await node.exec('printf %s "$BIG"', env={"BIG": big})).stdout == big
        assert (await node.exec(f": {big}; echo long script")).stdout == "long script\n"

    async def test_env_is_passed_on_exactly(self, node: Node) -> None:
        for value in ODD_ARGUMENTS:
            result = await node.exec('printf "%s" "$VALUE"', env={"VALUE": value})
            assert result.stdout == value

    async def test_the_env_of_the_node_is_there(self, node: Node) -> None:
        result = await node.exec('echo "$ROLE"; printf %s "$GREETING"')
        assert result.stdout == 'first\nit\'s "quoted" $HOME'

    async def test_env_of_a_command_wins_for_this_command_only(self, node: Node) -> None:
        assert (await node.exec("echo $ROLE", env={"ROLE": "other"})).stdout == "other\n"
        assert (await node.exec("echo $ROLE")).stdout == "first\n"

    async def test_cwd_is_where_the_command_runs(self, node: Node, inside: str) -> None:
        odd = f"{inside}/two words; $HOME"
        await node.exec(["mkdir", odd], check=True)
        for command in ("pwd", ["pwd"]):
            assert (await node.exec(command, cwd=odd)).stdout == f"{odd}\n"

    async def test_a_missing_cwd_is_not_ignored(self, node: Node) -> None:
        result = await node.exec("echo never", cwd="/no/such/place")
        assert result.returncode in {126, 127}
        assert "/no/such/place" in result.stderr
        assert result.stdout == ""

    @requires(Capability.USERS)
    async def test_a_command_runs_as_the_user_asked_for(self, node: Node) -> None:
        assert (await node.exec("id -un", user="nobody", check=True)).stdout == "nobody\n"
        assert (await node.exec(["id", "-u"], user="65534", check=True)).stdout == "65534\n"

    @requires(Capability.USERS)
    async def test_an_unknown_user_is_not_ignored(self, node: Node) -> None:
        result = await node.exec("echo never", user="no-such-user")
        assert result.returncode in {126, 127}
        assert "no-such-user" in result.stderr
        assert result.stdout == ""

    # --- many at once, and what stays behind ---

    async def test_50_at_once_on_one_node_give_50_right_results(self, node: Node) -> None:
        def command(number: int) -> str:
            return f"sleep 0.2; echo out {number}; echo err {number} >&2; exit {number}"

        started = time.monotonic()
        results = await asyncio.gather(*(node.exec(command(number)) for number in range(50)))
        took = time.monotonic() - started
        for number, result in enumerate(results):
            assert result.returncode == number
            assert (result.stdout, result.stderr) == (f"out {number}\n", f"err {number}\n")
        assert took < 50 * 0.2, "they ran one after the other"

    async def test_commands_run_on_every_node_at_once(self, pair: Lab) -> None:
        results = await pair.exec("echo $ROLE; exit 3")
        assert list(results) == ["alpha", "beta"]
        assert [result.stdout for result in results.values()] == ["first\n", "\n"]
        assert {result.returncode for result in results.values()} == {3}

    async def test_a_background_child_does_not_hold_the_result_and_lives_on(
        self, node: Node
    ) -> None:
        seconds = unique_seconds()
        result = await node.exec(f"sleep {seconds} & echo started; exit 3", timeout=20)
        assert (result.stdout, result.returncode) == ("started\n", 3)
        await until_sleeping(node, seconds)
        assert (await node.exec("true")).ok
        assert await count_sleeping(node, seconds) == 1

    async def test_a_background_child_does_not_leak_into_the_next_result(self, node: Node) -> None:
        first = await node.exec("(sleep 0.3; echo late; echo late >&2) & echo first")
        second = await node.exec("sleep 0.6; echo second")
        assert (first.stdout, first.stderr) == ("first\n", "")
        assert (second.stdout, second.stderr) == ("second\n", "")

    # --- wrong use ---

    async def test_wrong_arguments_are_refused_before_anything_runs(self, node: Node) -> None:
        for wrong in ("", [], [""], "nul\0byte", ["nul\0byte"]):
            with pytest.raises(ValueError, match=r"\w"):
                await node.exec(wrong)
        for timeout in (-1, math.nan):
            with pytest.raises(ValueError, match="timeout"):
                await node.exec("true", timeout=timeout)


def _digest(data: bytes) -> str:
    """Compare digests, not megabytes: a failing comparison must stay readable."""
    return hashlib.sha256(data).hexdigest()
