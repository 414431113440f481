"""Commands through waiting shells: every shell that an image may have as its /bin/sh."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError, LabError, NodeDied
from pytest_benchscale.transports import execution
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.container.client import ContainerTransport
from pytest_benchscale.transports.execution import Outcome
from tests.unit.transports.container.daemon import Daemon

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the shells look at /proc"
)

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@asynccontextmanager
async def node(
    directory: Path, shell: list[str] | None = None, fate: BenchscaleError | None = None
) -> AsyncIterator[tuple[Daemon, ContainerTransport]]:
    """Serve a daemon and open the way into its one container."""

    async def why() -> BenchscaleError | None:
        return fate

    async with Daemon(directory / "socket", shell or ["/bin/sh"]) as daemon:
        transport = ContainerTransport("node", daemon, "container", fate=why)
        try:
            yield daemon, transport
        finally:
            transport.close()


async def run(transport: ContainerTransport, *argv: str, timeout: float = 20) -> Outcome:
    return await execution.run(transport, Command(argv), timeout=timeout)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    shell = SHELLS[request.param]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    return shell


async def test_exit_codes_and_signals_are_told_apart(tmp_path: Path, shell: list[str]) -> None:
    async with node(tmp_path, shell) as (_, transport):
        codes = [0, 1, 3, 126, 127, 128, 150, 200, 255]
        # bash does not say of a command that it was killed: 129 to 143 count as signals there.
        codes += [] if shell[0] == "bash" else [130, 137, 143]
        for code in codes:
            assert (await run(transport, "/bin/sh", "-c", f"exit {code}")).returncode == code
        for number in (6, 9, 10, 15):
            outcome = await run(transport, "/bin/sh", "-c", f"kill -{number} $$")
            assert outcome.returncode == -number
            assert (outcome.stdout, outcome.stderr) == (b"", b"")


async def test_a_signal_that_was_sent_is_the_one_that_killed(
    tmp_path: Path, shell: list[str]
) -> None:
    async with node(tmp_path, shell) as (_, transport):
        for number in (2, 15):
            running = await transport.start(Command(("sleep", "1000")))
            await running.send_signal(number)
            async with asyncio.timeout(10):
                assert await running.wait() == -number
            await running.aclose()


async def test_both_outputs_arrive_unchanged(tmp_path: Path, shell: list[str]) -> None:
    everything = bytes(range(256)) * 300
    (tmp_path / "data").write_bytes(everything)
    script = f"cat {tmp_path}/data; cat {tmp_path}/data >&2"
    async with node(tmp_path, shell) as (_, transport):
        outcome = await run(transport, "/bin/sh", "-c", script)
    assert outcome.stdout == everything
    assert outcome.stderr == everything


async def test_arguments_env_and_place_arrive_unchanged(tmp_path: Path, shell: list[str]) -> None:
    odd = 'it\'s "odd" $HOME `id` \\ *\n\té 世 ' + "".join(map(chr, range(0xDC80, 0xDD00)))
    (tmp_path / "two words; $x").mkdir()
    env = {"PLAIN": odd, "no-identifier.1": odd}
    program = (
        "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, "
        "[sys.argv[1], os.environ['PLAIN'], os.environ['no-identifier.1'], os.getcwd()])))"
    )
    command = Command(("python3", "-c", program, odd), env=env, cwd=f"{tmp_path}/two words; $x")
    async with node(tmp_path, shell) as (_, transport):
        outcome = await execution.run(transport, command, timeout=20)
    raw = odd.encode(errors="surrogateescape")
    expected = [raw, raw, raw, f"{tmp_path}/two words; $x".encode()]
    assert outcome.stdout.split(b"\0") == expected, outcome.stderr


async def test_long_commands_at_once_get_sessions_of_their_own(tmp_path: Path) -> None:
    async with node(tmp_path) as (daemon, transport):
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(run(transport, "sleep", "1") for _ in range(10)))
        assert time.monotonic() - begun < 8, "they ran one after the other"
        assert {outcome.returncode for outcome in outcomes} == {0}
        assert daemon.started >= 10


async def test_a_background_child_keeps_neither_the_result_nor_the_session(
    tmp_path: Path, shell: list[str]
) -> None:
    async with node(tmp_path, shell) as (_, transport):
        first = await run(
            transport, "/bin/sh", "-c", "(sleep 0.3; echo late; echo late >&2) & echo"
        )
        second = await run(transport, "/bin/sh", "-c", "sleep 0.6; echo second")
    assert (first.stdout, second.stdout, second.stderr) == (b"\n", b"second\n", b"")


async def test_what_looks_like_a_note_is_output(tmp_path: Path) -> None:
    text = "benchscale-0123456789abcdef01234567:e0 x\nbenchscale-"
    async with node(tmp_path) as (_, transport):
        outcome = await run(transport, "printf", "%s", text)
    assert outcome.stdout == text.encode()


async def test_an_image_without_a_shell_runs_commands_all_the_same(tmp_path: Path) -> None:
    async with node(tmp_path, ["/no/such/shell"]) as (_, transport):
        outcome = await run(transport, "printf", "%s", "text")
        assert (outcome.returncode, outcome.stdout) == (0, b"text")
        fed = await execution.run(transport, Command(("cat",)), stdin=b"input", timeout=20)
        assert fed.stdout == b"input"
        missing = await run(transport, "no-such-command")
        assert missing.returncode == 127
        assert b"no-such-command" in missing.stderr


async def test_a_shell_that_cannot_compare_files_is_not_used(tmp_path: Path) -> None:
    if shutil.which("posh") is None:
        pytest.skip("posh is not installed")
    async with node(tmp_path, ["posh"]) as (_, transport):
        assert (await run(transport, "printf", "text")).stdout == b"text"


async def test_a_refusal_is_told_in_the_daemons_words(tmp_path: Path) -> None:
    async with node(tmp_path) as (daemon, transport):
        body = b'{"message": "Container is on strike"}'
        daemon.answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        with pytest.raises(LabError, match="on strike"):
            await run(transport, "true")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 101 UPGR"])
async def test_a_daemon_that_makes_no_sense_is_an_error(tmp_path: Path, answer: bytes) -> None:
    async with node(tmp_path) as (daemon, transport):
        daemon.answer = answer
        with pytest.raises((BackendUnavailable, LabError)):
            await run(transport, "true")


async def test_a_node_that_died_ends_what_is_in_flight(tmp_path: Path) -> None:
    death = NodeDied("node", "its power failed")
    async with node(tmp_path) as (_, transport):
        running = await transport.start(Command(("sleep", "1000")))
        waiting = asyncio.create_task(run(transport, "sleep", "1000"))
        await asyncio.sleep(0.1)
        transport.lost(death)
        async with asyncio.timeout(5):
            for work in (running.wait(), waiting, transport.start(Command(("true",)))):
                with pytest.raises(NodeDied, match="power"):
                    await work
        await running.aclose()


async def test_a_command_whose_shell_was_killed_counts_as_killed(tmp_path: Path) -> None:
    async with node(tmp_path) as (_, transport):
        running = await transport.start(
            Command(("/bin/sh", "-c", "read -r p c s parent x </proc/$PPID/stat; kill -9 $parent"))
        )
        async with asyncio.timeout(10):
            assert await running.wait() == -9
        await running.aclose()
        assert (await run(transport, "echo", "here")).stdout == b"here\n"


async def test_closing_ends_the_waiting_shells(tmp_path: Path) -> None:
    async with node(tmp_path) as (daemon, transport):
        await asyncio.gather(*(run(transport, "sleep", "0.1") for _ in range(5)))
        transport.close()
        async with asyncio.timeout(10):
            while any(daemon.exec_inspect(str(n + 1))["Running"] for n in range(daemon.started)):
                await asyncio.sleep(0.01)
