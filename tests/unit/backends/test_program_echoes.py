"""Programs that measure from within nodes: what takes their place, and what is told when nothing does."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

import anyio
import pytest

from pytest_benchscale.backends.program_echoes import ProgramEchoes, Programs
from pytest_benchscale.errors import LabError, NodeDied
from pytest_benchscale.network.echo import Path, measure
from pytest_benchscale.network.matrix import Matrix
from pytest_benchscale.transports.base import Command

THERE, BACK = Path("a", "b", ip_address("10.0.0.2")), Path("b", "a", ip_address("10.0.0.1"))
PINGED = (
    b"64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.2 ms\n2 packets transmitted, 1 received\n"
)


class _Stream:
    """What a command writes, given out as it is told lines; then the end."""

    def __init__(self, chunks: list[bytes], *, told: bool) -> None:
        self._chunks = chunks
        self._may = anyio.Semaphore(0 if told else len(chunks) + 1)
        self._told = told

    def allow(self) -> None:
        if self._told:
            self._may.release()

    async def receive(self) -> bytes:
        await self._may.acquire()
        if not self._chunks:
            self._may.release()
            raise anyio.EndOfStream
        return self._chunks.pop(0)


class _Running:
    """A command that answers each line it is told with the next one; it is its own standard input."""

    def __init__(self, answers: list[bytes], code: int, words: bytes, *, stdin: bool) -> None:
        self.stdin = self if stdin else None
        self.stdout = _Stream(answers, told=stdin)
        self.stderr = _Stream([words] if words else [], told=False)
        self.told: list[bytes] = []
        self._code = code

    async def send(self, data: bytes) -> None:
        self.told.append(data)
        self.stdout.allow()

    async def wait(self) -> int:
        return self._code

    async def send_signal(self, signum: int) -> None: ...

    async def kill_tree(self) -> None: ...

    async def aclose(self) -> None: ...


class _Launcher:
    """Starts what is said to be there: programs that measure, one after the other, and `ping`."""

    def __init__(self, *programs: Callable[[], _Running], ping: bytes | None = None) -> None:
        self._programs = list(programs)
        self._ping = ping
        self.started: list[tuple[str, ...]] = []

    async def start(self, command: Command, *, stdin: bool = False) -> _Running:
        self.started.append(command.argv)
        if command.argv[0] == "ping":
            code = 127 if self._ping is None else 0
            return _Running([self._ping] if self._ping else [], code, b"", stdin=False)
        return self._programs.pop(0)()


def program(*answers: object, code: int = 0, words: bytes = b"") -> Callable[[], _Running]:
    lines = [json.dumps(answer).encode() + b"\n" for answer in answers]
    return lambda: _Running(lines, code, words, stdin=True)


def good(rtts: dict[str, list[float]], arrived: dict[str, int]) -> tuple[object, ...]:
    return {"ready": True}, {"sent": True}, {"rtts": rtts, "arrived": arrived}


def ended(code: int, words: bytes = b"") -> Callable[[], _Running]:
    return program(code=code, words=words)


def died() -> _Running:
    raise NodeDied("b", "it was killed")


async def measured(programs: dict[str, Programs]) -> Matrix:
    stations = {name: ProgramEchoes(one) for name, one in programs.items()}
    with anyio.fail_after(10):
        return await measure(stations, [THERE, BACK], count=2, interval=0.0, patience=1.0)


async def test_each_tells_what_came_back_and_what_arrived_for_the_others() -> None:
    a = _Launcher(program(*good({"0": [0.001, 0.003]}, {"1": 1})))
    b = _Launcher(program(*good({"1": []}, {"0": 2})))
    matrix = await measured({"a": Programs("a", a), "b": Programs("b", b)})
    assert matrix["a", "b"].rtts_ms == (1.0, 3.0)
    assert (matrix["a", "b"].delivered, matrix["a", "b"].sent) == (2, 2)
    assert (matrix["b", "a"].delivered, matrix["b", "a"].answered) == (1, 0)


async def test_a_program_is_used_again_and_replaced_when_it_has_ended() -> None:
    twice = good({"0": [0.001]}, {}) * 2
    a = _Launcher(program(*twice), program(*good({"0": [0.002]}, {})))
    b = _Launcher(program(*good({"1": []}, {"0": 1}) * 3))
    programs = {"a": Programs("a", a), "b": Programs("b", b)}
    times = [(await measured(programs))["a", "b"].rtts_ms for _ in range(3)]
    assert times == [(1.0,), (1.0,), (2.0,)]
    assert (len(a.started), len(b.started)) == (2, 1)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(ended(127, b"sh: python3: not found"), id="no python"),
        pytest.param(program({"refused": "Operation not permitted"}), id="no raw sockets"),
    ],
)
async def test_ping_takes_the_place_of_a_program(first: Callable[[], _Running]) -> None:
    a = _Launcher(first, ping=PINGED)
    b = _Launcher(program(*good({"1": [0.001]}, {"0": 1})))
    programs = {"a": Programs("a", a), "b": Programs("b", b)}
    matrix = await measured(programs)
    assert matrix["a", "b"].rtts_ms == (0.2,)
    assert matrix["b", "a"].rtts_ms == (1.0,)
    assert [one.delivered for one in matrix] == [None, None]  # neither knows what is of the other
    assert [argv[0] for argv in a.started] == ["/bin/sh", "ping"]


async def test_without_python_and_ping_both_are_named() -> None:
    programs = {
        "a": Programs("a", _Launcher(ended(127))),
        "b": Programs("b", _Launcher(ended(127))),
    }
    with pytest.raises(LabError, match="it has no python3, and it has no ping") as caught:
        await measured(programs)
    assert caught.value.node in {"a", "b"}
    assert "python3 or ping" in str(caught.value)


async def test_a_program_that_fails_is_told_with_its_words() -> None:
    a = _Launcher(ended(1, b"Traceback: it is broken"))
    b = _Launcher(program(*good({"1": [0.001]}, {"0": 1})))
    with pytest.raises(LabError, match=r"node 'a' cannot be measured from(.|\n)*it is broken"):
        await measured({"a": Programs("a", a), "b": Programs("b", b)})


async def test_a_node_that_dies_meanwhile_sends_nothing() -> None:
    a = _Launcher(program(*good({"0": []}, {})))
    b = _Launcher(died)
    matrix = await measured({"a": Programs("a", a), "b": Programs("b", b)})
    assert (matrix["b", "a"].sent, matrix["a", "b"].answered) == (0, 0)
    assert matrix["a", "b"].delivered is None


def test_the_programs_of_an_earlier_run_of_a_node_are_not_used() -> None:
    known: dict[str, Programs] = {}
    first, second = _Launcher(), _Launcher()
    programs = Programs.of(known, "a", first)
    assert Programs.of(known, "a", first) is programs
    assert Programs.of(known, "a", second) is not programs
