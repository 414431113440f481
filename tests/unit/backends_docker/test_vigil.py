"""The news of a daemon, and what happens when they stop coming."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pytest_benchscale.backends.docker.connection import connect
from pytest_benchscale.backends.docker.dialect import DOCKER
from pytest_benchscale.backends.docker.endpoints import Endpoint
from pytest_benchscale.backends.docker.vigil import Vigil
from pytest_benchscale.errors import BackendUnavailable
from tests.unit.backends_docker.fake_daemon import FakeDaemon, Request, on_socket

EVENT = {
    "Action": "die",
    "timeNano": 7 * 10**9,
    "Actor": {"ID": "c1", "Attributes": {"benchscale.node": "one", "exitCode": "3"}},
}


class Node:
    """A node that writes down what it is told."""

    container = "c1"
    is_alive = True

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.news = asyncio.Event()

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self.news.set()

    def died(self, when: int, reason: str) -> None:
        self._tell("died", when)

    def seen(self, state: dict[str, Any]) -> None:
        self._tell("seen", state["Running"])

    def lost(self, error: Exception) -> None:
        self._tell("lost", error)


@asynccontextmanager
async def watching(daemon: FakeDaemon, node: Node) -> AsyncIterator[Vigil]:
    engine = await connect("docker", Endpoint(daemon.url, "DOCKER_HOST"))
    vigil = Vigil(engine, {"benchscale.lab": "x"}, {"one": node}, DOCKER)  # type: ignore[dict-item]
    await vigil.begin(1)
    try:
        yield vigil
    finally:
        vigil.end()
        await engine.aclose()


async def test_a_stream_that_ends_while_the_daemon_is_there_is_taken_up_again(tmp_path: Path):
    with on_socket(tmp_path / "s") as daemon:
        streams: list[Request] = []
        done = threading.Event()

        def events(request: Request) -> None:
            streams.append(request)
            request.begin()
            if len(streams) == 1:  # as Podman does when its log of events is full
                request.say({**EVENT, "Action": "exec_die"})
                request.end()
            else:
                request.say(EVENT)
                done.wait(20)

        daemon.routes["GET /events"] = events
        daemon.routes["GET /containers/c1/json"] = lambda request: request.answer(
            {"State": {"Running": True}}
        )
        node = Node()
        async with watching(daemon, node), asyncio.timeout(10):
            while len(node.told) < 2:
                node.news.clear()
                await node.news.wait()
            done.set()
    assert sorted(node.told) == [("died", 7 * 10**9), ("seen", True)]
    assert [request.query["since"] for request in streams] == ["1", "7"]


async def test_nodes_are_lost_when_the_daemon_went_away_with_the_stream(tmp_path: Path):
    end = threading.Event()
    node = Node()
    with on_socket(tmp_path / "s") as daemon:

        def events(request: Request) -> None:
            request.begin()
            end.wait(20)
            request.end()

        daemon.routes["GET /events"] = events
        async with watching(daemon, node), asyncio.timeout(10):
            (tmp_path / "s").unlink()
            end.set()
            await node.news.wait()
    ((word, error),) = node.told
    assert word == "lost"
    assert isinstance(error, BackendUnavailable)
