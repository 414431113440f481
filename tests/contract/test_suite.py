"""What the contract suite itself promises to those who inherit from it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import ClassVar

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BenchscaleError, NotSupported
from pytest_benchscale.testing import BackendContract, DeadlineContract
from pytest_benchscale.testing.base import Contract, requires
from tests.fake_backend import FakeBackend

NAME = "test_the_node_answers_after_a_timeout"
CASES = "test_a_timeout_kills_inside_the_node"


def marks(owner: type, test: str) -> list[pytest.Mark]:
    return list(getattr(getattr(owner, test), "pytestmark", []))


def test_a_known_failure_is_marked_for_this_backend_only() -> None:
    class Mine(DeadlineContract):
        known_failures: ClassVar = {NAME: "slow"}

    assert [(mark.name, mark.kwargs) for mark in marks(Mine, NAME)] == [
        ("xfail", {"reason": "slow", "strict": True})
    ]
    assert not marks(DeadlineContract, NAME)
    assert not marks(BackendContract, NAME)


def test_a_known_failure_may_be_one_case_of_a_test() -> None:
    class Mine(DeadlineContract):
        known_failures: ClassVar = {f"{CASES}[children]": "slow", f"{CASES}[a daemon]": "too"}

    def reasons(owner: type) -> dict[str, str]:
        (mark,) = marks(owner, CASES)
        return {
            value.values[0]: value.marks[0].kwargs["reason"]
            for value in mark.args[1]
            if not isinstance(value, str)
        }

    assert reasons(Mine) == {"children": "slow", "a daemon": "too"}
    assert not reasons(DeadlineContract)


@pytest.mark.parametrize("name", ["test_of_nothing", "backend", f"{CASES}[chidlren]"])
def test_a_known_failure_that_names_no_test_is_an_error(name: str) -> None:
    with pytest.raises(TypeError, match="known_failures names no test"):
        type("Mine", (DeadlineContract,), {"known_failures": {name: "why"}})


def test_every_test_of_the_contract_is_asynchronous() -> None:
    tests = [name for name in dir(BackendContract) if name.startswith("test_")]
    assert len(tests) > 150
    for name in tests:
        assert inspect.iscoroutinefunction(getattr(BackendContract, name)), name


class Needy(Contract):
    """Pretends to test a backend without any capability."""

    backend = "bare"
    error: BenchscaleError | None = None

    @requires(Capability.PAUSE)
    async def pause(self) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def needy() -> Iterator[Needy]:
    class Bare(FakeBackend):
        capabilities = frozenset()

    registry.register("bare", Bare)
    yield Needy()
    registry.unregister("bare")


def test_a_missing_capability_must_be_refused_by_name(needy: Needy) -> None:
    needy.error = NotSupported("bare", Capability.PAUSE)
    asyncio.run(needy.pause())


def test_a_missing_capability_that_seems_to_work_is_a_failure(needy: Needy) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        asyncio.run(needy.pause())


@pytest.mark.parametrize(
    "error", [NotSupported("other", Capability.PAUSE), NotSupported("bare", Capability.STOP)]
)
def test_a_missing_capability_must_be_refused_with_the_right_names(
    needy: Needy, error: NotSupported
) -> None:
    needy.error = error
    with pytest.raises(AssertionError):
        asyncio.run(needy.pause())
