"""A container daemon that stops answering, or dies, under a lab: told in time, and nothing stays behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from pytest_benchscale import (
    BackendUnavailable,
    BenchscaleError,
    Lab,
    LabError,
    NodeDied,
    WaitTimeout,
)
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import CommandTimeout
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.transports.execution import KILL_DEADLINE
from tests.daemons.endpoints import connection
from tests.daemons.images import reference
from tests.daemons.private import PrivateDockerd, private_dockerd
from tests.faults.sessions import start, wait_for_output

pytestmark = pytest.mark.usefixtures("ledger_of_its_own")

NAMES = ("one", "two", "three", "four")
NODES = "".join(f"  - {{name: {name}, image: '{reference('debian')}'}}\n" for name in NAMES)
TOPOLOGY = f"metadata: {{name: faulty}}\nnetworks: [{{name: lan}}, {{name: wan}}]\nnodes:\n{NODES}"

HURRY = LabOptions(timeout_scale=0.2)
"""Deadlines of the lab's own at a fifth: 6 s for a question or a removal, 12 s for a change."""


@pytest.fixture(scope="module")
def shared_dockerd() -> Iterator[PrivateDockerd]:
    with private_dockerd() as daemon:
        yield daemon


@pytest.fixture
def dockerd(
    shared_dockerd: PrivateDockerd, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrivateDockerd]:
    """A daemon that is in order before the test, and has nothing after it, whatever happened to it."""
    monkeypatch.setenv("DOCKER_HOST", shared_dockerd.host)
    yield shared_dockerd
    if shared_dockerd.running:
        shared_dockerd.thaw()
    else:
        shared_dockerd.start()
    left = _what_it_has(shared_dockerd)
    _clear(shared_dockerd)
    assert left == []


def _what_it_has(dockerd: PrivateDockerd) -> list[str]:
    with connection(dockerd.host) as client:
        containers = [name for it in client.api.containers(all=True) for name in it["Names"]]
        networks = [it["Name"] for it in client.api.networks()]
    return [*containers, *sorted({*networks} - {"bridge", "host", "none"})]


def _clear(dockerd: PrivateDockerd) -> None:
    """Have a test that failed not fail the next ones; who else removes things may go on meanwhile."""
    deadline = time.monotonic() + 30
    with connection(dockerd.host) as client:
        while containers := client.containers.list(all=True, ignore_removed=True):
            assert time.monotonic() < deadline, containers
            for container in containers:
                with suppress(docker.errors.NotFound):  # a request of the test was faster
                    _remove(container)
            time.sleep(0.1)
        client.networks.prune()


def _remove(container: Any) -> None:
    try:
        container.remove(force=True, v=True)
    except docker.errors.APIError as error:
        if "already in progress" not in error.explanation:
            raise


@contextmanager
def frozen(dockerd: PrivateDockerd) -> Iterator[None]:
    dockerd.freeze()
    try:
        yield
    finally:
        dockerd.thaw()


@asynccontextmanager
async def killed(dockerd: PrivateDockerd) -> AsyncIterator[None]:
    """Have no daemon for a block. The one that is back afterwards has ended the containers that it found."""
    await asyncio.to_thread(dockerd.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(dockerd.start)


def opened(options: LabOptions | None = None) -> AbstractAsyncContextManager[Lab]:
    return Lab.open(load_text(TOPOLOGY), backend="docker", options=options)


async def fails(work: Awaitable[object], seconds: float) -> BenchscaleError:
    """Return the error with which something ends, which it does within `seconds`."""
    began = time.monotonic()
    # The limit is far off: what takes longer than it may shall fail the test, not be cancelled by it.
    async with asyncio.timeout(seconds + 60):
        with pytest.raises(BenchscaleError) as caught:
            await work
    assert time.monotonic() - began < seconds, str(caught.value)
    return caught.value


# --- frozen ---


async def test_while_the_daemon_is_frozen_a_command_ends_at_its_timeout(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab:
        busy = asyncio.create_task(lab["two"].exec("sleep 1; echo done"))
        await lab["one"].exec("true")
        with frozen(dockerd):
            # What a frozen daemon does not kill is waited for a while longer.
            error = await fails(lab["one"].exec("echo hello", timeout=1), 1 + KILL_DEADLINE + 5)
        assert isinstance(error, (CommandTimeout, BackendUnavailable))
        assert "'one'" in str(error)
        assert (await busy).stdout == "done\n"
        assert (await lab["one"].exec("echo back")).stdout == "back\n"


async def test_while_the_daemon_is_frozen_nothing_takes_longer_than_its_deadline(
    dockerd: PrivateDockerd,
) -> None:
    async with opened(HURRY) as lab:
        await lab.exec("true")
        with frozen(dockerd):
            stopped, killed, paused, log, *waits = await asyncio.gather(
                fails(lab["one"].stop(grace=1), 15),
                fails(lab["two"].kill(), 15),
                fails(lab["three"].pause(), 15),
                fails(lab["four"].logs(), 10),
                fails(lab["four"].wait_for_log("never", timeout=20), 10),
                # Its last look is a command, which a frozen daemon does not kill.
                fails(lab["four"].wait_for_file("/never", timeout=20), 4 + KILL_DEADLINE + 5),
            )
        for error, what in ((stopped, "stop"), (killed, "kill"), (paused, "pause"), (log, "logs")):
            assert isinstance(error, (LabError, BackendUnavailable))
            assert what in str(error)
            assert error.resolution
        for error in waits:
            assert isinstance(error, (WaitTimeout, LabError, BackendUnavailable))
        assert (await lab["four"].exec("echo back")).stdout == "back\n"


async def test_a_teardown_goes_on_when_a_frozen_daemon_is_back(dockerd: PrivateDockerd) -> None:
    async with opened() as lab:
        with frozen(dockerd):
            down = asyncio.create_task(lab.down())
            await asyncio.sleep(5)
            assert not down.done()
        async with asyncio.timeout(60):
            await down
    assert _what_it_has(dockerd) == []


async def test_a_teardown_gives_up_on_a_frozen_daemon_and_can_be_repeated(
    dockerd: PrivateDockerd,
) -> None:
    async with opened(HURRY) as lab:
        with frozen(dockerd):
            error = await fails(lab.down(), 30)
        assert isinstance(error, LabError)
        for name in NAMES:
            assert f"'{name}'" in str(error)
        async with asyncio.timeout(60):
            await lab.down()
    assert _what_it_has(dockerd) == []


# --- killed ---


async def test_when_the_daemon_is_killed_everything_in_flight_ends_and_names_it(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab:
        one, two = lab["one"], lab["two"]
        in_flight = [
            asyncio.create_task(one.exec("sleep 1000", timeout=None)),
            asyncio.create_task(two.exec("cat; sleep 1000", input=bytes(8 << 20), timeout=None)),
            asyncio.create_task(one.wait_for_exec("false", timeout=600)),
            asyncio.create_task(one.wait_for_log("never", timeout=600)),
            asyncio.create_task(one.wait_for_port(9, timeout=600)),
        ]
        await asyncio.sleep(0.5)
        async with killed(dockerd):
            for work in (*in_flight, one.exec("true"), one.read_text("/etc/passwd"), one.stop()):
                error = await fails(work, 10)
                assert isinstance(error, BackendUnavailable), repr(error)
                assert error.backend == "docker"
                assert dockerd.host in str(error)
                assert error.resolution


async def test_a_process_ends_with_its_daemon_and_so_does_its_block_once_that_is_back(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab, lab["one"].process("echo up; sleep 1000") as process:
        await process.wait_for_line("up")
        async with killed(dockerd):
            assert isinstance(await fails(process.wait(), 10), BackendUnavailable)


async def test_a_process_that_cannot_be_ended_since_its_daemon_is_gone_says_so(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab:
        process = lab["one"].process("echo up; sleep 1000")
        async with process:
            await process.wait_for_line("up")
            async with killed(dockerd):
                error = await fails(process.finish(), 30)
        assert isinstance(error, BackendUnavailable), repr(error)
        assert dockerd.host in str(error)


async def test_after_the_daemon_was_killed_a_command_is_told_that_its_node_is_dead(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab:
        async with killed(dockerd):
            pass
        assert isinstance(await fails(lab["one"].exec("true"), 10), NodeDied)


async def test_after_the_daemon_was_killed_its_nodes_can_be_started_again(
    dockerd: PrivateDockerd,
) -> None:
    async with opened() as lab:
        await lab["one"].write_text("/srv/keep", "kept")
        async with killed(dockerd):
            pass
        assert lab["one"].status is NodeStatus.DEAD
        await lab["one"].start()
        assert await lab["one"].read_text("/srv/keep") == "kept"
        await lab["two"].start()
        assert (await lab["two"].exec("getent hosts one")).ok


async def test_a_teardown_goes_on_when_a_killed_daemon_is_back(dockerd: PrivateDockerd) -> None:
    async with opened() as lab:
        async with killed(dockerd):
            down = asyncio.create_task(lab.down())
            await asyncio.sleep(1)
            assert not down.done()
        async with asyncio.timeout(60):
            await down
    assert _what_it_has(dockerd) == []


async def test_a_teardown_gives_up_on_a_daemon_that_stays_away_and_can_be_repeated(
    dockerd: PrivateDockerd,
) -> None:
    async with opened(HURRY) as lab:
        async with killed(dockerd):
            error = await fails(lab.down(), 30)
        assert isinstance(error, LabError)
        assert "backend 'docker' is not usable" in str(error)
        async with asyncio.timeout(60):
            await lab.down()
    assert _what_it_has(dockerd) == []


# --- in the middle of a bring-up ---

MOMENTS = pytest.mark.parametrize("seconds", [0.05, 0.3, 0.7])


async def _interrupt(seconds: float, action: Callable[[], None]) -> asyncio.Task[None]:
    """Begin to bring a lab up, and have something happen after a moment."""

    async def bring_up() -> None:
        async with opened() as lab:
            await lab.exec("true")

    task = asyncio.create_task(bring_up())
    await asyncio.sleep(seconds)
    await asyncio.to_thread(action)
    return task


@MOMENTS
async def test_a_bring_up_goes_on_after_a_freeze(dockerd: PrivateDockerd, seconds: float) -> None:
    task = await _interrupt(seconds, dockerd.freeze)
    await asyncio.sleep(2)
    dockerd.thaw()
    async with asyncio.timeout(60):
        await task
    assert _what_it_has(dockerd) == []


@MOMENTS
async def test_a_bring_up_that_is_cancelled_while_the_daemon_is_frozen_leaves_nothing(
    dockerd: PrivateDockerd, seconds: float
) -> None:
    task = await _interrupt(seconds, dockerd.freeze)
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.sleep(3)
    dockerd.thaw()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(1)  # for what might still appear
    assert _what_it_has(dockerd) == []


@MOMENTS
async def test_a_daemon_killed_in_a_bring_up_is_named_and_nothing_is_left(
    dockerd: PrivateDockerd, seconds: float
) -> None:
    task = await _interrupt(seconds, dockerd.kill)
    await asyncio.to_thread(dockerd.start)  # the roll-back waits for it
    error = await fails(task, 60)
    assert isinstance(error, BackendUnavailable), repr(error)
    assert dockerd.host in str(error)
    assert _what_it_has(dockerd) == []


@pytest.mark.parametrize("state", ["frozen", "killed"])
async def test_without_a_daemon_a_bring_up_says_so_in_time(
    dockerd: PrivateDockerd, state: str
) -> None:
    await asyncio.to_thread(dockerd.freeze if state == "frozen" else dockerd.kill)

    async def bring_up() -> None:
        async with opened():
            pytest.fail("the lab came up")

    error = await fails(bring_up(), 15 if state == "frozen" else 5)
    assert isinstance(error, BackendUnavailable)
    assert dockerd.host in str(error)
    assert error.resolution


# --- seen by a user of pytest ---

SESSION = """
import pytest

@pytest.mark.topology("faulty.yaml")
def test_first(lab):
    print("BUSY", flush=True)
    lab.sync["one"].exec("sleep 1000", timeout=900)

@pytest.mark.topology("faulty.yaml")
def test_second(lab):
    lab.sync["two"].exec("true")
"""


def test_a_run_whose_daemon_is_killed_fails_its_tests_and_ends(
    dockerd: PrivateDockerd, workplace: Path
) -> None:
    (workplace / "faulty.yaml").write_text(TOPOLOGY)
    (workplace / "test_it.py").write_text(SESSION)
    options = ["-s", "-p", "no:cacheprovider", "-p", "no:randomly", "--benchscale-backend=docker"]
    argv = ["-m", "pytest", *options, "--benchscale-timeout-scale=0.2"]
    process = start(argv, cwd=workplace, env={"DOCKER_HOST": dockerd.host})
    wait_for_output(process, "BUSY", seconds=60)
    dockerd.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "2 failed" in output
    assert "backend 'docker' is not usable" in output
    assert "not taken down cleanly" in output
    assert "INTERNALERROR" not in output
    dockerd.start()
    _clear(dockerd)  # nobody could
