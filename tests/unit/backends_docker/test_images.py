"""Pulling and building, against a daemon that says what the test wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pytest_benchscale.backends import sharing
from pytest_benchscale.backends.docker import images, messages
from pytest_benchscale.backends.docker.connection import connect
from pytest_benchscale.backends.docker.endpoints import Endpoint
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.errors import BackendUnavailable, LabError
from tests.unit.backends_docker.fake_daemon import FakeDaemon, Request, on_socket

PULL = "POST /images/create"
LAYER = {
    "id": "aa11",
    "status": "Downloading",
    "progressDetail": {"current": 500_000, "total": 2_000_000},
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon that has no images, and can pull any."""
    with on_socket(tmp_path / "s") as fake:

        def pull(request: Request) -> None:
            request.begin()
            request.say(LAYER)
            request.end()

        fake.routes[PULL] = pull
        fake.routes["GET /images/json"] = lambda request: request.answer([])
        yield fake


@asynccontextmanager
async def connected(daemon: FakeDaemon) -> AsyncIterator[Engine]:
    engine = await connect("docker", Endpoint(daemon.url, "DOCKER_HOST"))
    try:
        yield engine
    finally:
        await engine.aclose()


async def ensure(engine: Engine, image: str, **options: object) -> str:
    given = {"directory": Path("/nowhere"), "platform": None, "labels": {}, **options}
    return await images.ensure(engine, image, **given)  # type: ignore[arg-type]


def test_every_kind_of_reference_is_completed_and_taken_apart():
    parts = {
        "debian": ("debian", "latest"),
        "debian:12": ("debian", "12"),
        "box:5000/debian": ("box:5000/debian", "latest"),
        "box:5000/a/b:c": ("box:5000/a/b", "c"),
        "debian@sha256:ab": ("debian", "sha256:ab"),
        "box:5000/debian:12@sha256:ab": ("box:5000/debian", "sha256:ab"),
    }
    for reference, expected in parts.items():
        assert images._parted(images._complete(reference)) == expected
    assert images._complete("a" * 64) == "a" * 64


async def test_an_image_that_is_there_is_not_pulled(daemon):
    daemon.routes["GET /images/debian:latest/json"] = lambda request: request.answer({"Id": "x"})
    async with connected(daemon) as engine:
        assert await ensure(engine, "debian") == "debian:latest"
        assert await ensure(engine, "debian:latest") == "debian:latest"
    assert daemon.count(PULL) == 0
    assert daemon.count("GET /images/debian:latest/json") == 1


async def test_without_a_tag_only_the_latest_is_pulled(daemon):
    async with connected(daemon) as engine:
        assert await ensure(engine, "box:5000/tool") == "box:5000/tool:latest"
    assert daemon.seen[-1].query == {"fromImage": "box:5000/tool", "tag": "latest"}


async def test_an_image_of_another_platform_is_not_the_one_that_was_asked_for(daemon):
    there = {"Os": "linux", "Architecture": "amd64"}
    daemon.routes["GET /images/it:1/json"] = lambda request: request.answer(there)
    async with connected(daemon) as engine:
        await ensure(engine, "it:1", platform="linux/x86_64")
        assert daemon.count(PULL) == 0
        await ensure(engine, "it:1", platform="linux/arm64/v8")
    assert daemon.seen[-1].query["platform"] == "linux/arm64/v8"


async def test_progress_is_told_in_the_loop_that_asked(daemon, monkeypatch):
    monkeypatch.setattr(messages, "_SAY_SECONDS", 0)
    said = []

    def progress(line: str) -> None:
        asyncio.get_running_loop()
        said.append(line)

    async with connected(daemon) as engine:
        await ensure(engine, "it", progress=progress)
        await asyncio.sleep(0)
    assert said == ["pulling it:latest", "pulling it:latest: 0 of 1 layers, 0.5 of 2.0 MB"]


class Gate:
    """A pull that waits until the test lets it go on."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.hung_up = threading.Event()
        self.error: str | None = None
        daemon.routes[PULL] = self._pull

    def _pull(self, request: Request) -> None:
        request.begin()
        request.say(LAYER)
        self.begun.set()
        assert self.open.wait(30)
        if self.error:
            request.say({"error": self.error})
        request.end()

    def wait_for_hang_up(self, request: Request) -> None:
        request.begin()
        request.say(LAYER)
        self.begun.set()
        request.until_hung_up()
        self.hung_up.set()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 20)


async def test_whoever_wants_the_same_image_at_once_shares_one_pull_across_labs(daemon):
    gate = Gate(daemon)
    async with connected(daemon) as one, connected(daemon) as other, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ensure(one, "it")) for _ in range(20)]
        tasks += [group.create_task(ensure(other, "it:latest")) for _ in range(20)]
        await until(gate.begun)
        gate.open.set()
    assert {task.result() for task in tasks} == {"it:latest"}
    assert daemon.count(PULL) == 1


async def test_other_event_loops_share_it_too(daemon):
    gate = Gate(daemon)

    async def elsewhere() -> str:
        async with connected(daemon) as engine:
            return await ensure(engine, "it")

    async with connected(daemon) as engine, asyncio.TaskGroup() as group:
        first = group.create_task(ensure(engine, "it"))
        await until(gate.begun)
        second = group.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
        async with asyncio.timeout(10):
            while [len(shared.listeners) for shared in sharing._running.values()] != [2]:
                await asyncio.sleep(0.01)
        gate.open.set()
    assert first.result() == second.result() == "it:latest"
    assert daemon.count(PULL) == 1


async def test_a_shared_pull_that_fails_fails_for_all_each_with_an_error_of_its_own(daemon):
    gate = Gate(daemon)
    gate.error = "manifest unknown"
    async with connected(daemon) as engine:
        tasks = [asyncio.create_task(ensure(engine, "it")) for _ in range(3)]
        await until(gate.begun)
        gate.open.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {LabError}
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 3


async def test_who_began_a_pull_may_be_cancelled_and_the_others_go_on(daemon):
    gate = Gate(daemon)
    async with connected(daemon) as engine:
        first = asyncio.create_task(ensure(engine, "it"))
        await until(gate.begun)
        second = asyncio.create_task(ensure(engine, "it"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        assert await second == "it:latest"
    assert daemon.count(PULL) == 1


@pytest.mark.parametrize("path", [PULL, "POST /build"])
async def test_when_nobody_waits_any_more_the_daemon_is_left_alone(daemon, path, tmp_path):
    gate = Gate(daemon)
    daemon.routes[path] = gate.wait_for_hang_up
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    async with connected(daemon) as engine:
        task = asyncio.create_task(ensure(engine, "it" if path == PULL else f"build:{tmp_path}"))
        await until(gate.begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(gate.hung_up)
        assert not sharing._running


async def test_after_a_failure_it_is_tried_anew(daemon):
    daemon.routes[PULL] = lambda request: request.answer({"message": "busy"}, 500)
    async with connected(daemon) as engine:
        for _ in range(2):
            with pytest.raises(LabError, match="cannot pull it"):
                await ensure(engine, "it")
    assert daemon.count(PULL) == 2


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("manifest for x:1 not found: manifest unknown: manifest unknown", "does not have it"),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "login",
        ),
        (
            'Get "https://r/v2/": dial tcp: lookup r on 1.1.1.1:53: no such host',
            "cannot be reached",
        ),
        (
            'Get "https://r/v2/": dial tcp 1.1.1.1:443: connect: connection refused',
            "cannot be reached",
        ),
        (
            'Get "https://r/v2/": context deadline exceeded (Client.Timeout exceeded)',
            "cannot be reached",
        ),
        ('Get "https://r/v2/": dial tcp: lookup r: i/o timeout', "cannot be reached"),
        ("toomanyrequests: You have reached your pull rate limit.", "no more pulls for now"),
        ("write /var/lib/x: no space left on device", "disk"),
        ("no matching manifest for linux/arm64 in the manifest list entries", "this platform"),
        ("invalid reference format: repository name must be lowercase", "no reference"),
        ("http: server gave HTTP response to HTTPS client", "no TLS"),
        ("something else", "the daemon cannot pull it"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_the_daemon_says_becomes_cause_and_cure(daemon, words, cause, at_once):
    def refuse(request: Request) -> None:
        if at_once:
            request.answer({"message": words}, 500)
        else:
            request.begin()
            request.say({"errorDetail": {"message": words}, "error": words})
            request.end()

    daemon.routes[PULL] = refuse
    async with connected(daemon) as engine:
        with pytest.raises(LabError) as caught:
            await ensure(engine, "x:1")
    error = caught.value
    assert error.brief.startswith("the image 'x:1' is not on this machine and cannot be pulled: ")
    assert cause in error.brief
    assert words in str(error.details)
    assert "docker pull x:1" in str(error.resolution)
    assert "--benchscale-image NAME=REF" in str(error.resolution)


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        ("debain:12", "debian:12"),
        ("debian", "debian:12"),
        ("my/app:v2", "my/app:v1"),
        ("zoo", None),
    ],
)
async def test_an_image_with_a_similar_name_is_suggested(daemon, wanted, near):
    tags = ["docker.io/library/debian:12", "localhost/my/app:v1", "<none>:<none>"]
    daemon.routes["GET /images/json"] = lambda request: request.answer(
        [{"Id": "a", "RepoTags": tags}, {"Id": "b", "RepoTags": None}]
    )
    daemon.routes[PULL] = lambda request: request.answer({"message": "not found"}, 404)
    async with connected(daemon) as engine:
        with pytest.raises(LabError) as caught:
            await ensure(engine, wanted)
    if near:
        assert f"{near!r} is there, did you mean that?" in caught.value.brief
    else:
        assert "did you mean" not in caught.value.brief


async def test_a_url_is_no_reference(daemon):
    async with connected(daemon) as engine:
        with pytest.raises(LabError, match="no reference to an image"):
            await ensure(engine, "https://box/image")


async def test_a_daemon_that_falls_silent_is_given_up(daemon, monkeypatch):
    gate = Gate(daemon)
    monkeypatch.setattr(images, "_SILENCE", 0.3)
    async with connected(daemon) as engine:
        with pytest.raises(
            BackendUnavailable, match="said nothing for too long, while pulling 'it:l"
        ):
            await ensure(engine, "it")
    gate.open.set()


async def test_a_daemon_that_breaks_off_is_named(daemon):
    def break_off(request: Request) -> None:
        request.begin()
        request.say(LAYER)
        request._handler.connection.close()
        request._handler.close_connection = True

    daemon.routes[PULL] = break_off
    async with connected(daemon) as engine:
        with pytest.raises(BackendUnavailable, match=r"broke off: .* while pulling"):
            await ensure(engine, "it")


# --- building ---


@pytest.mark.parametrize("name", ["missing", "file"])
async def test_a_directory_to_build_that_is_none_is_named(daemon, tmp_path, name):
    (tmp_path / "file").touch()
    async with connected(daemon) as engine:
        with pytest.raises(
            LabError, match=f"{tmp_path / name}, to build an image from, "
        ) as caught:
            await ensure(engine, f"build:./{name}", directory=tmp_path)
    assert "relative to the topology file" in str(caught.value.resolution)


async def test_a_directory_without_a_dockerfile_is_named_with_what_it_holds(daemon, tmp_path):
    (tmp_path / "context").mkdir()
    (tmp_path / "context/dockerfile").touch()
    async with connected(daemon) as engine:
        with pytest.raises(LabError, match="has no Dockerfile") as caught:
            await ensure(engine, "build:context", directory=tmp_path)
    assert caught.value.details == "it holds: dockerfile"


async def test_what_cannot_be_read_is_named(daemon, tmp_path, monkeypatch):
    (tmp_path / "Dockerfile").write_text("FROM scratch")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Can not read file in context: secret")

    monkeypatch.setattr("docker.utils.build.tar", refuse)
    async with connected(daemon) as engine:
        with pytest.raises(LabError, match="Can not read file in context: secret") as caught:
            await ensure(engine, f"build:{tmp_path}")
    assert ".dockerignore" in str(caught.value.resolution)
