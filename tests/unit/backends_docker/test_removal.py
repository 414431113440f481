"""Removing from a daemon that is away for a moment, and creating what nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from pytest_benchscale.backends.docker import removal
from pytest_benchscale.backends.docker.dialect import DOCKER
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.errand import Errand
from pytest_benchscale.backends.docker.removal import Remover
from pytest_benchscale.errors import BackendUnavailable, LabError


class Client:
    """A daemon's client: `answers` are given one after the other, errors are raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.special: dict[str, object] = {}  # answers to some questions, always the same

    def __getattr__(self, name: str) -> Callable[..., object]:
        def ask(*arguments: object, **options: object) -> object:
            self.asked.append(name)
            if name in self.special:
                return self.special[name]
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


class FakeEngine:
    """An engine whose calls do not need a thread, or hang while `hangs`."""

    name = "docker"
    address = "unix:///nowhere"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.hangs = False

    async def call(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        if self.hangs:
            await anyio.sleep_forever()
        return await anyio.to_thread.run_sync(lambda: function(*args, **options))


def remover(*answers: object) -> tuple[Remover, Client, FakeEngine]:
    client = Client(*answers)
    engine = FakeEngine(client)
    return Remover(cast(Engine, engine), 1.0, DOCKER), client, engine


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_PAUSE", 0.01)
    monkeypatch.setattr(removal, "PATIENCE", 0.2)
    monkeypatch.setattr(removal, "_ENDPOINT_SECONDS", 0.1)
    monkeypatch.setattr(removal, "_ALIVE_SECONDS", 0.1)


AWAY = BackendUnavailable("docker", "it is away")
USED = ApiError(403, "network x has active endpoints")


async def test_a_daemon_that_comes_back_is_asked_again():
    remove, client, _ = remover(AWAY, AWAY, None)
    await remove.container("c")
    assert client.asked == ["remove_container"] * 3


async def test_a_daemon_that_stays_away_is_given_up():
    remove, client, _ = remover(AWAY)
    with pytest.raises(BackendUnavailable):
        await remove.container("c")
    asked = len(client.asked)
    with pytest.raises(BackendUnavailable):
        await remove.network("n")
    assert len(client.asked) == asked + 1  # patience is had once


async def test_a_daemon_that_left_us_waiting_must_show_that_it_answers():
    remove, client, engine = remover(None)
    engine.hangs = True
    with anyio.move_on_after(0.05):
        await remove.container("c")
    with anyio.fail_after(1), pytest.raises(BackendUnavailable, match="does not answer"):
        await remove.network("n")
    engine.hangs = False
    await remove.network("n")
    assert client.asked == ["ping", "remove_network"]


async def test_what_is_gone_is_no_error():
    remove, _, _ = remover(ApiError(404, "no such thing"))
    await remove.container("c")
    await remove.network("n")


async def test_a_removal_under_way_is_waited_for():
    remove, client, _ = remover(
        ApiError(409, "removal of container c is already in progress"), ApiError(404, "gone")
    )
    await remove.container("c")
    assert len(client.asked) == 2


async def test_a_network_whose_containers_are_on_their_way_out_is_asked_again():
    remove, client, _ = remover(USED, USED, None)
    await remove.network("n")
    assert client.asked == ["remove_network"] * 3


@pytest.mark.parametrize(
    ("containers", "said"), [({"1": {"Name": "users-own"}}, "users-own"), ({}, "lost count")]
)
async def test_what_stays_on_a_network_is_named(containers, said):
    remove, client, _ = remover(*[USED] * 30, {"Name": "lan", "Containers": containers})
    client.special["inspect_network"] = client.answers[-1]
    with pytest.raises(LabError) as caught:
        await remove.network("n")
    assert said in str(caught.value)


async def test_a_paused_container_goes_on_before_it_is_removed():
    remove, client, _ = remover(None)
    await remove.container("c", paused=True)
    assert client.asked == ["unpause", "remove_container"]


# --- errands ---


async def test_who_is_cancelled_leaves_a_request_that_can_be_asked_for():
    go_on, engine = threading.Event(), FakeEngine(Client())

    def create() -> dict[str, Any]:
        go_on.wait(10)
        return {"Id": "made"}

    errand = Errand(cast(Engine, engine), create)
    waiting = asyncio.create_task(errand.identifier())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    outcome = asyncio.create_task(errand.outcome())
    await asyncio.sleep(0.05)
    assert not outcome.done()
    go_on.set()
    assert await outcome == "made"


async def test_a_request_that_was_not_sent_yet_is_not_sent_any_more():
    engine = FakeEngine(Client())
    sent: list[str] = []
    turn = anyio.Event()

    async def queued(function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        await turn.wait()
        return function(*args, **options)

    engine.call = queued  # type: ignore[method-assign]

    def create() -> dict[str, Any]:
        sent.append("sent")
        return {"Id": "made"}

    errand = Errand(cast(Engine, engine), create)
    outcome = asyncio.create_task(errand.outcome())
    await asyncio.sleep(0.01)
    turn.set()
    assert await outcome is None
    assert sent == []


async def test_a_refusal_created_nothing():
    def refuse() -> dict[str, Any]:
        raise ApiError(409, "no")

    errand = Errand(cast(Engine, FakeEngine(Client())), refuse)
    with pytest.raises(ApiError):
        await errand.identifier()
    assert await errand.outcome() is None
