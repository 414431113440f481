"""Files in and out through a daemon's archive API, for images without shell or tar."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.testing.files import ODD_NAMES, _odd_tree, _small_tree, _snapshot
from pytest_benchscale.transports.container.api import ApiError
from pytest_benchscale.transports.container.archive_files import ArchiveFiles
from pytest_benchscale.transports.container.client import ContainerTransport
from pytest_benchscale.transports.container.hijack import DaemonAddress
from pytest_benchscale.transports.shell.tar_files import TarFiles
from tests.daemons.endpoints import connection, find
from tests.daemons.images import reference

MIB = 1 << 20


class Container:
    """A running container, and a look into it."""

    def __init__(self, client: Any, image: str, **host: Any) -> None:
        self.client = client
        settings = client.create_host_config(**host)
        made = client.create_container(
            reference(image),
            ["sleep", "1000"] if image != "bare" else None,
            host_config=settings,
            labels={"benchscale.test": "files"},
        )
        self.id = str(made["Id"])

    def run(self, script: str) -> str:
        made = self.client.exec_create(self.id, ["sh", "-c", script], user="0")
        said = self.client.exec_start(made["Id"]).decode()
        assert self.client.exec_inspect(made["Id"])["ExitCode"] == 0, said
        return str(said)


@pytest.fixture(
    params=[
        pytest.param("docker", marks=pytest.mark.daemon("docker", images=["debian", "user"])),
        pytest.param("podman", marks=pytest.mark.daemon("podman", images=["debian", "user"])),
    ]
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    url = find(request.param)
    with connection(url) as client:
        yield Engine(request.param, client.api, DaemonAddress("unix", url.removeprefix("unix://")))


@pytest.fixture
async def container(
    engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Container]:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("from the host")
    made = Container(
        engine.client,
        getattr(request, "param", "debian"),
        tmpfs={"/scratch": ""},
        binds=[f"{tmp_path}/volume:/fixed:ro", f"{tmp_path}/volume:/open"],
    )
    try:
        engine.client.start(made.id)
        yield made
    finally:
        engine.client.remove_container(made.id, force=True, v=True)


@pytest.fixture
def files(engine: Engine, container: Container) -> ArchiveFiles:
    return ArchiveFiles(engine, container.id)


async def test_a_tree_comes_back_as_it_went_in(files: ArchiveFiles, tmp_path: Path) -> None:
    tree = _odd_tree(tmp_path / "tree")
    os.mkfifo(tree / "fifo", 0o640)
    await files.put(tree, "/srv/tree")
    await files.get("/srv/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tree)
    await files.put(tree, "/srv")
    (tree / "file").write_text("second")
    await files.put(tree, "/srv/")
    assert await files.read_bytes("/srv/tree/file") == b"second"
    await files.get("/srv/tree/.", tmp_path / "again")
    await files.get("/srv/tree/", tmp_path / "again")
    assert _snapshot(tmp_path / "again" / "tree") == _snapshot(tree)


async def test_odd_names_are_kept(files: ArchiveFiles, engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [*ODD_NAMES, os.fsdecode(b"latin-\xe9"), "\\n"]
    for name in names:
        (tree / name).write_text(name, errors="surrogateescape")
        await files.put(tree / name, "/srv")
        unreadable = "\udce9" in name if engine.name == "docker" else "*" in name
        if not unreadable:  # these daemons have trouble with such names, by themselves
            assert await files.read_bytes(f"/srv/{name}") == os.fsencode(name)
    await files.put(tree, "/srv/tree")
    await files.get("/srv/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tree)


@pytest.mark.parametrize("container", ["user"], indirect=True)
async def test_what_goes_in_belongs_to_the_nodes_own_user(
    files: ArchiveFiles, container: Container, tmp_path: Path
) -> None:
    await files.put(_small_tree(tmp_path / "tree"), "/tmp")
    await files.write_bytes("/tmp/file", b"")
    shown = container.run("stat -c %u /tmp/tree /tmp/tree/file /tmp/tree/sub/deep /tmp/file")
    assert shown.split() == ["1234"] * 4


async def test_bytes_are_written_and_read_unchanged(
    files: ArchiveFiles, container: Container
) -> None:
    for data in (b"", bytes(range(256)), os.urandom(3 * MIB)):
        await files.write_bytes("/srv/file", data)
        assert await files.read_bytes("/srv/file") == data
    await files.write_bytes("/srv/file", b"x", 0o751)
    await files.write_bytes("/srv/file", b"y")
    container.run("ln -s file /srv/link; ln -s /srv /opt/link")
    await files.write_bytes("/srv/link", b"z")
    assert container.run("stat -c %a /srv/file; cat /srv/file; readlink /srv/link").split() == [
        *("751", "zfile")
    ]
    assert await files.read_bytes("/srv/link") == b"z"
    assert await files.read_bytes("/opt/link/file") == b"z"
    await files.write_bytes("/opt/link/new", b"through")
    assert container.run("cat /srv/new") == "through"


async def test_a_volume_is_read_and_written(files: ArchiveFiles, tmp_path: Path) -> None:
    assert await files.read_bytes("/fixed/file") == b"from the host"
    await files.write_bytes("/open/answer", b"from the node")
    assert (tmp_path / "volume" / "answer").read_text() == "from the node"


async def test_errors_have_the_number_and_the_path(
    files: ArchiveFiles, container: Container, tmp_path: Path
) -> None:
    tree = _small_tree(tmp_path / "tree")
    container.run("touch /srv/file; mkdir -p /srv/tree/file /srv/tree2; touch /srv/tree2/tree")
    cases = [
        (lambda: files.put(tree, "/srv/no/tree"), errno.ENOENT, "/srv/no/tree"),
        (lambda: files.put(tree, "/srv/no/"), errno.ENOENT, "/srv/no/"),
        (lambda: files.put(tree, "/srv/file"), errno.EEXIST, "/srv/file"),
        (lambda: files.put(tree, "/srv/tree2"), errno.EEXIST, "/srv/tree2/tree"),
        (lambda: files.put(tree / "file", "/srv/tree"), errno.EISDIR, "/srv/tree/file"),
        (lambda: files.put(tree, "/srv/file/tree"), errno.ENOTDIR, "/srv/file/tree"),
        (lambda: files.put(tree / "no", "/srv"), errno.ENOENT, f"{tree}/no"),
        (lambda: files.put(tree / "file", "/fixed/new"), errno.EROFS, "/fixed/new"),
        (lambda: files.put(tree / "file", "/etc/hosts"), errno.EBUSY, "/etc/hosts"),
        (lambda: files.get("/srv/no", tmp_path / "x"), errno.ENOENT, "/srv/no"),
        (lambda: files.get("/srv/file", tmp_path / "no" / "x"), errno.ENOENT, f"{tmp_path}/no"),
        (lambda: files.get("/srv/tree", tree / "file"), errno.EEXIST, f"{tree}/file"),
        (lambda: files.read_bytes("/srv/no"), errno.ENOENT, "/srv/no"),
        (lambda: files.read_bytes("/srv"), errno.EISDIR, "/srv"),
        (lambda: files.write_bytes("/srv", b""), errno.EISDIR, "/srv"),
        (lambda: files.write_bytes("/srv/no/x", b""), errno.ENOENT, "/srv/no/x"),
        (lambda: files.write_bytes("/srv/file/x", b""), errno.ENOTDIR, "/srv/file/x"),
        (lambda: files.write_bytes("/fixed/x", b""), errno.EROFS, "/fixed/x"),
        (lambda: files.put(Path("/proc/self/mem"), "/srv/x"), errno.EIO, "/proc/self/mem"),
    ]
    for work, number, path in cases:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
            await work()
        assert (caught.value.errno, caught.value.filename) == (number, path)
    assert not (tmp_path / "x").exists()
    assert (tree / "file").read_text() == "text"
    for path in ("/srv/file/x", "/etc/passwd/below"):
        with pytest.raises((NotADirectoryError, FileNotFoundError), match=path):
            await files.read_bytes(path)
    files_of_nobody = ArchiveFiles(files._api, "0" * 64)
    with pytest.raises(ApiError):
        await files_of_nobody.read_bytes("/etc/passwd")


async def test_what_the_daemon_does_not_see_is_refused_not_hidden(
    files: ArchiveFiles, container: Container, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("text")
    for path in ("/scratch/file", "/dev/shm/file"):
        if engine.name == "podman":
            await files.put(tmp_path / "file", path)
            assert container.run(f"cat {path}") == "text"
            continue
        for work in (
            lambda path=path: files.put(tmp_path / "file", path),
            lambda path=path: files.write_bytes(path, b""),
            lambda path=path: files.get(path, tmp_path / "x"),
            lambda path=path: files.read_bytes(path),
        ):
            with pytest.raises(OSError, match="does not see what is mounted at") as caught:
                await work()
            assert caught.value.filename == path
    with pytest.raises(OSError, match="/proc/new"):
        await files.write_bytes("/proc/new", b"")


async def test_100_mib_go_in_and_come_out_unchanged(files: ArchiveFiles, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(MIB) * 100)
    await files.put(tmp_path / "big", "/srv")
    await files.get("/srv/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


async def test_a_cancelled_copy_stops(
    files: ArchiveFiles, container: Container, tmp_path: Path
) -> None:
    container.run("truncate -s 4G /srv/big")
    task = asyncio.create_task(files.get("/srv/big", tmp_path / "back"))
    while not (tmp_path / "back").exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        size = -1
        while size != (size := (tmp_path / "back").stat().st_size):
            await asyncio.sleep(0.3)
    assert size < 4 << 30


@pytest.mark.parametrize("container", ["user"], indirect=True)
async def test_large_files_take_the_daemons_way_only_where_it_is_the_same(
    files: ArchiveFiles,
    container: Container,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivered = []
    deliver = files.deliver

    async def noted(source: Path, directory: str, name: str) -> bool:
        delivered.append(f"{directory}/{name}")
        return await deliver(source, directory, name)

    async def fate() -> None:
        return None

    monkeypatch.setattr(files, "deliver", noted)
    transport = ContainerTransport("alpha", engine, container.id, fate=fate)
    both = TarFiles(transport, files)
    source = tmp_path / "big"
    source.write_bytes(os.urandom(5 * MIB))
    source.chmod(0o741)
    container.run(
        "chmod 777 /scratch; mkdir -m 777 /opt/at; ln -s /opt/at /opt/link; mkdir /opt/no"
    )
    for directory in ("/tmp", "/opt/link", "/scratch"):
        for _ in range(2):  # the second time it is there already
            await both.put(source, directory)
            shown = container.run(f"stat -c '%u %a %s' {directory}/big")
            assert shown.split()[-3:] == ["1234", "741", str(5 * MIB)]
            assert await both.read_bytes(f"{directory}/big") == source.read_bytes()
    for path, error in (("/opt/no/big", PermissionError), ("/no/big", FileNotFoundError)):
        with pytest.raises(error, match=path):
            await both.put(source, path)
    assert delivered == ["/tmp/big", "/opt/at/big"]
    await transport.aclose()


@pytest.mark.parametrize("container", ["bare"], indirect=True)
@pytest.mark.daemon("docker", images=["bare"])
async def test_an_image_without_a_shell_needs_nothing(files: ArchiveFiles, tmp_path: Path) -> None:
    tree = _small_tree(tmp_path / "tree")
    await files.put(tree, "/tmp/tree")
    await files.get("/tmp/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tree)
    assert stat.S_ISDIR((tmp_path / "back" / "sub").stat().st_mode)
