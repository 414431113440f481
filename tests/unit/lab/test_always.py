"""What must always hold is looked at while a block runs; a violation that lasts fails the block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio
import pytest

from pytest_benchscale.errors import InvariantViolated, LabError
from pytest_benchscale.lab.lab import Lab
from tests.unit.lab.conftest import MakeLab

QUICK = {"every": 0.01, "grace": 0.05}


class Check:
    """A check whose answer can be set."""

    def __init__(self) -> None:
        self.answer: object = True
        self.error: Exception | None = None
        self.count = 0

    def __call__(self) -> object:
        self.count += 1
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def check() -> Check:
    return Check()


async def until(truth: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not truth():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("answer", [True, None, "yes", 1])
async def test_what_holds_disturbs_nobody(lab: Lab, check: Check, answer: object) -> None:
    check.answer = answer
    async with lab.always(check, **QUICK):
        await until(lambda: check.count > 3)


@pytest.mark.parametrize("answer", [False, 0, "", []])
async def test_a_violation_that_lasts_ends_the_block_where_it_waits(
    lab: Lab, check: Check, answer: object
) -> None:
    begun = time.monotonic()
    check.answer = answer
    with pytest.raises(InvariantViolated) as caught:
        async with lab.always(check, **QUICK):
            await asyncio.sleep(600)
    assert 0.05 <= time.monotonic() - begun < 20
    assert f"it returned {answer!r}" in caught.value.brief
    assert caught.value.details is not None
    assert "(none)" in caught.value.details


async def test_an_assertion_that_failed_last_is_the_cause(lab: Lab) -> None:
    async def leaders_agree() -> None:
        await asyncio.sleep(0)
        raise AssertionError("two leaders")

    with pytest.raises(
        InvariantViolated, match=r"leaders_agree was violated .* two leaders"
    ) as caught:
        async with lab.always(leaders_agree, **QUICK):
            await asyncio.sleep(600)
    assert isinstance(caught.value.__cause__, AssertionError)


async def test_a_violation_within_the_grace_is_forgiven(lab: Lab, check: Check) -> None:
    async with lab.always(check, every=0.01, grace=30):
        check.answer = False
        count = check.count
        await until(lambda: check.count > count + 3)
        check.answer = True


async def test_a_check_at_the_blocks_end_fails_it(lab: Lab, check: Check) -> None:
    with pytest.raises(InvariantViolated):  # noqa: PT012  it is violated later
        async with lab.always(check, every=600, grace=0):
            await until(lambda: check.count == 1)
            check.answer = False


async def test_a_violation_at_the_blocks_end_has_its_grace(lab: Lab, check: Check) -> None:
    async with lab.always(check, every=0.01, grace=30):
        check.answer = False
        asyncio.get_running_loop().call_later(0.1, setattr, check, "answer", True)
    assert check.count > 2


async def test_the_faults_that_were_active_are_named(lab: Lab, check: Check) -> None:
    with pytest.raises(InvariantViolated) as caught:  # noqa: PT012  a fault inside the block
        async with lab.always(check, **QUICK), lab["b"].paused():
            check.answer = False
            await asyncio.sleep(600)
    assert caught.value.details is not None
    assert "pause b  [active]" in caught.value.details
    assert not lab.faults.active


async def test_the_seed_of_a_nemesis_inside_the_block_is_not_lost(lab: Lab, check: Check) -> None:
    with pytest.raises(InvariantViolated) as caught:  # noqa: PT012  a nemesis inside the block
        async with lab.always(check, **QUICK), lab.nemesis(seed=42, faults=["pause"], interval=0):
            await until(lambda: lab.faults.active)
            check.answer = False
            await asyncio.sleep(600)
    assert any("seed=42" in note for note in caught.value.__notes__)


async def test_the_failure_of_the_block_itself_comes_first(lab: Lab, check: Check) -> None:
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012  it fails later
        async with lab.always(check, every=0.01, grace=30):
            check.answer = False
            count = check.count
            await until(lambda: check.count > count + 1)
            raise ZeroDivisionError
    assert "was violated" in caught.value.__notes__[0]


async def test_a_check_that_is_wrong_itself_ends_the_block(lab: Lab, check: Check) -> None:
    check.error = ConnectionRefusedError("nobody there")
    with pytest.raises(ConnectionRefusedError) as caught:
        async with lab.always(check, every=0.01, grace=30):
            await asyncio.sleep(600)
    assert "lab.always" in caught.value.__notes__[0]


async def test_a_check_that_does_not_come_back_is_violated(lab: Lab) -> None:
    with pytest.raises(InvariantViolated, match=r"did not come back within 0.05 s"):
        async with lab.always(lambda: asyncio.sleep(600), every=0.01, grace=0, timeout=0.05):
            await asyncio.sleep(600)


async def test_cancelling_the_test_goes_through(lab: Lab, check: Check) -> None:
    async def body() -> None:
        async with lab.always(check, **QUICK):
            await asyncio.sleep(600)

    task = asyncio.create_task(body())
    await until(lambda: check.count)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_it_works_in_both_kinds_of_loops(lab: Lab, library: str) -> None:
    async def body() -> None:
        async def check() -> bool:
            await anyio.sleep(0)
            return time.monotonic() < begun + 0.1

        begun = time.monotonic()
        async with lab.always(check, **QUICK):
            await anyio.sleep(600)

    with pytest.raises(InvariantViolated, match="it returned False"):
        anyio.run(body, backend=library)


def test_without_await_the_block_goes_on_and_its_end_raises(lab: Lab, check: Check) -> None:
    reached = False
    with pytest.raises(InvariantViolated) as caught:  # noqa: SIM117, PT012  what goes on is the point
        with lab.sync.always(check, **QUICK), lab.sync["a"].paused():
            check.answer = False
            time.sleep(0.3)
            reached = True
    assert reached
    assert "pause a" in str(caught.value)


def test_without_await_a_check_at_the_blocks_end_fails_it(lab: Lab, check: Check) -> None:
    with pytest.raises(InvariantViolated):  # noqa: SIM117, PT012  it is violated later
        with lab.sync.always(check, every=600, grace=0):
            while not check.count:
                time.sleep(0.01)
            check.answer = False


def test_without_await_the_failure_of_the_block_comes_first(lab: Lab, check: Check) -> None:
    check.answer = False
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: SIM117, PT012  it fails later
        with lab.sync.always(check, **QUICK):
            time.sleep(0.3)
            raise ZeroDivisionError
    assert "was violated" in caught.value.__notes__[0]


def test_without_await_what_holds_disturbs_nobody(lab: Lab, check: Check) -> None:
    with lab.sync.always(check, **QUICK):
        time.sleep(0.1)
    assert check.count > 2


@pytest.mark.parametrize(
    ("check", "options", "message"),
    [
        (None, {}, "a function without arguments"),
        (print, {"every": 0}, "every cannot be 0 s"),
        (print, {"grace": -1}, "grace cannot be -1 s"),
        (print, {"timeout": "1"}, "timeout is a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make_lab: MakeLab, check: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        make_lab("a").always(check, **options)  # type: ignore[arg-type]  # that is the point


def test_without_await_an_async_check_is_refused(make_lab: MakeLab) -> None:
    async def check() -> bool:
        return True

    with pytest.raises(LabError, match="takes a plain function"):
        make_lab("a").sync.always(check)
