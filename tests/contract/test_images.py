"""Images in real daemons: pulled from a registry on this machine, and built."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pytest_benchscale.backends.docker import images
from pytest_benchscale.backends.docker.connection import connect
from pytest_benchscale.backends.docker.diagnosis import DOCKER, PODMAN
from pytest_benchscale.backends.docker.endpoints import Endpoint
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.errors import LabError
from tests.contract.registry import DIGEST, Registry, serve
from tests.daemons.endpoints import find
from tests.daemons.images import reference

LABELS = {"benchscale.lab": "testlab1", "benchscale.run": "run1"}

docker = pytest.param("docker", marks=pytest.mark.daemon("docker"))
podman = pytest.param("podman", marks=pytest.mark.daemon("podman"))


@pytest.fixture(params=[docker, podman])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """A daemon."""
    name = request.param
    product = {"docker": DOCKER, "podman": PODMAN}[name]
    engine = await connect(name, Endpoint(find(name), "the test"), product)
    try:
        yield engine
    finally:
        await images.discard(engine)
        await engine.aclose()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as running:
        yield running


async def ensure(engine: Engine, image: str, **options: object) -> str:
    given = {"directory": Path("/nowhere"), "platform": None, "labels": LABELS, **options}
    return await images.ensure(engine, image, **given)  # type: ignore[arg-type]


async def ids(engine: Engine) -> set[str]:
    """Return every image there is, those of the steps of builds included."""
    return {image["Id"] for image in await engine.call(engine.client.images, all=True)}


@contextlib.asynccontextmanager
async def removed_after(engine: Engine, *references: str) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for each in references:
            with contextlib.suppress(ApiError):
                await engine.call(engine.client.remove_image, each)


only_docker = pytest.mark.parametrize("engine", [docker], indirect=True)


# --- pulling; Docker trusts a registry on loopback without TLS, Podman only when configured so ---


@only_docker
async def test_a_missing_image_is_pulled_once_and_only_its_latest_tag(engine, registry):
    image = f"{registry.host}/tool"
    said: list[str] = []
    async with removed_after(engine, f"{image}:latest"):
        tasks = [ensure(engine, image, progress=said.append) for _ in range(10)]
        assert set(await asyncio.gather(*tasks)) == {f"{image}:latest"}
        found = await engine.call(engine.client.inspect_image, image)
    assert found["RepoTags"] == [f"{image}:latest"]
    assert sum("/blobs/" in path for path in registry.asked) == 2  # the configuration, one layer
    assert f"pulling {image}:latest" in said


@only_docker
async def test_an_image_can_be_named_by_its_digest(engine, registry):
    image = f"{registry.host}/tool@{DIGEST}"
    async with removed_after(engine, image):
        assert await ensure(engine, image) == image
        found = await engine.call(engine.client.inspect_image, image)
        assert found["RepoDigests"] == [image]
        count = len(registry.asked)
        assert await ensure(engine, image) == image
        assert len(registry.asked) == count


@only_docker
async def test_a_cancelled_pull_ends_in_the_daemon_and_can_be_begun_anew(engine, registry):
    image = f"{registry.host}/tool:other"
    registry.go_on.clear()
    async with removed_after(engine, image):
        pull = asyncio.create_task(ensure(engine, image))
        async with asyncio.timeout(20):
            while not any("/blobs/" in path for path in registry.asked):
                await asyncio.sleep(0.02)
        began = time.monotonic()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert time.monotonic() - began < 1
        registry.go_on.set()
        assert await ensure(engine, image) == image


@only_docker
async def test_an_image_that_the_registry_does_not_have_is_told_as_that(engine, registry):
    with pytest.raises(LabError, match="its registry does not have it") as caught:
        await ensure(engine, f"{registry.host}/tool:nonsense")
    assert "docker says: manifest unknown" in str(caught.value.details)


async def test_offline_it_is_told_that_the_registry_cannot_be_reached(engine):
    began = time.monotonic()
    with pytest.raises(LabError, match="its registry cannot be reached") as caught:
        await ensure(engine, "127.0.0.1:1/tool")
    assert time.monotonic() - began < 20
    assert "connection refused" in str(caught.value.details)
    assert f"{engine.name} pull 127.0.0.1:1/tool:latest" in str(caught.value.resolution)


async def test_what_is_no_reference_is_told_as_that(engine):
    with pytest.raises(LabError, match="that is no reference to an image"):
        await ensure(engine, "No Reference")


async def test_the_test_images_are_there_under_the_names_that_the_tests_use(engine):
    assert await ensure(engine, reference("debian")) == reference("debian")


async def test_an_image_that_is_there_may_be_named_by_its_id(engine):
    found = await engine.call(engine.client.inspect_image, reference("debian"))
    assert await ensure(engine, found["Id"]) == found["Id"]


async def test_a_similar_image_that_is_there_is_suggested(engine):
    repository = reference("debian").partition(":")[0]
    with pytest.raises(LabError) as caught:
        await ensure(engine, f"127.0.0.1:1/{repository}:x")
    assert f"{repository}:" in caught.value.brief.partition("registry cannot be reached; ")[2]


# --- building ---


def context(directory: Path, *lines: str, **files: str) -> Path:
    """Write a Dockerfile and what it copies."""
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text("\n".join([*lines, ""]))
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


async def content(engine: Engine, image: str) -> set[str]:
    """Return the files of an image."""
    config = {"Image": image, "Cmd": ["/none"]}
    client = engine.client
    made = await engine.call(client.create_container_from_config, config)
    try:
        stream = await engine.call(client.export, made["Id"])
        archive = b"".join([chunk async for chunk in _chunks(stream)])
    finally:
        await engine.call(client.remove_container, made["Id"], force=True)
    import io  # noqa: PLC0415
    import tarfile  # noqa: PLC0415

    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return set(files.getnames())


async def _chunks(stream: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in await asyncio.to_thread(list, stream):
        yield chunk


async def test_a_directory_is_built_without_what_dockerignore_names(engine, tmp_path):
    made = context(tmp_path / "it", "FROM scratch", "ADD . /data/", kept="1")
    (made / "secret.key").write_text("2")
    (made / ".dockerignore").write_text("# not these\n*.key\n")
    before = await ids(engine)
    image = await ensure(engine, "build:./it", directory=tmp_path)
    assert image not in before
    files = await content(engine, image)
    assert "data/kept" in files
    assert "data/secret.key" not in files


async def test_a_build_carries_the_labels_and_disappears_with_all_its_steps(engine, tmp_path):
    steps = ("RUN echo one > /one", "RUN echo two > /two", "COPY kept /kept")
    context(tmp_path, f"FROM {reference('debian')}", *steps, kept="1")
    before = await ids(engine)
    said: list[str] = []
    image = await ensure(engine, f"build:{tmp_path}", progress=said.append)
    found = await engine.call(engine.client.inspect_image, image)
    assert LABELS.items() <= found["Config"]["Labels"].items()
    assert len(found["RepoTags"]) == 1
    assert "benchscale-build:testlab1-" in found["RepoTags"][0]
    assert any("RUN echo one" in line for line in said)
    await images.discard(engine)
    assert await ids(engine) == before
    await images.discard(engine)


async def test_nodes_of_one_lab_share_one_build(engine, tmp_path):
    context(tmp_path, f"FROM {reference('debian')}", "RUN date +%N > /when")
    tasks = [ensure(engine, f"build:{tmp_path}") for _ in range(5)]
    first = set(await asyncio.gather(*tasks))
    assert len(first) == 1
    assert await ensure(engine, f"build:{tmp_path}") in first


async def test_what_was_built_before_stays_when_a_lab_takes_it_from_the_cache(engine, tmp_path):
    context(tmp_path, f"FROM {reference('debian')}", "RUN echo mine > /mine")
    tag = "benchscale-mine:1"
    build = {"path": str(tmp_path), "tag": tag, "rm": True, "decode": True}
    await engine.call(lambda: list(engine.client.build(**build)))
    async with removed_after(engine, tag):
        before = await ids(engine)
        await ensure(engine, f"build:{tmp_path}")
        await images.discard(engine)
        assert await ids(engine) == before
        assert (await engine.call(engine.client.inspect_image, tag))["Id"] in before


async def test_a_step_that_fails_is_shown_with_its_output_and_leaves_nothing(engine, tmp_path):
    before = await ids(engine)
    steps = ("RUN echo fine > /fine", "RUN echo it is broken; exit 7")
    context(tmp_path, f"FROM {reference('debian')}", *steps)
    with pytest.raises(LabError) as caught:
        await ensure(engine, f"build:{tmp_path}")
    error = caught.value
    assert "RUN echo it is broken; exit 7 failed: " in error.brief
    assert "7" in error.brief.partition("failed: ")[2]
    assert "it is broken" in str(error.details)
    assert str(tmp_path / "Dockerfile") in str(error.resolution)
    await images.discard(engine)
    assert await ids(engine) == before
    assert not await engine.call(engine.client.containers, all=True, filters={"ancestor": "fine"})


@only_docker  # Podman 4.3 finishes the step that it is at, whoever hangs up
async def test_a_cancelled_build_leaves_nothing(engine, tmp_path):
    before = await ids(engine)
    containers = {each["Id"] for each in await engine.call(engine.client.containers, all=True)}
    context(tmp_path, f"FROM {reference('debian')}", "RUN echo 1 > /one", "RUN sleep 60")
    sleeping = asyncio.Event()

    def progress(line: str) -> None:
        if "sleep 60" in line:
            sleeping.set()

    task = asyncio.create_task(ensure(engine, f"build:{tmp_path}", progress=progress))
    async with asyncio.timeout(30):
        await sleeping.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await images.discard(engine)
    async with asyncio.timeout(20):
        while await ids(engine) != before or containers < {
            each["Id"] for each in await engine.call(engine.client.containers, all=True)
        }:
            await asyncio.sleep(0.1)


async def test_a_mistake_in_a_dockerfile_is_shown(engine, tmp_path):
    context(tmp_path, "FROM scratch", "NONSENSE x")
    with pytest.raises(LabError) as caught:
        await ensure(engine, f"build:{tmp_path}")
    assert caught.value.brief.lower().replace('"', "").endswith("unknown instruction: nonsense")


async def test_a_base_image_that_cannot_be_pulled_is_shown(engine, tmp_path):
    context(tmp_path, "FROM 127.0.0.1:1/base")
    with pytest.raises(LabError, match=r"cannot be built: .*FROM 127\.0\.0\.1:1/base") as caught:
        await ensure(engine, f"build:{tmp_path}")
    assert "connection refused" in caught.value.brief
