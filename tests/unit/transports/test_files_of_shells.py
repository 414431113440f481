"""Files in and out with a shell, tar and cat, of GNU and of busybox."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.testing.files import ODD_NAMES, _odd_tree, _small_tree, _snapshot
from pytest_benchscale.transports.shell.mounts import mount_of
from tests.unit.transports.shells import ShellTransport, toolbox

MIB = 1 << 20


@pytest.fixture(params=["gnu", "busybox"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "busybox" and not shutil.which("busybox"):
        pytest.skip("busybox is not installed")
    return str(request.param)


@pytest.fixture
def node(kind: str, tmp_path: Path) -> ShellTransport:
    return ShellTransport(toolbox(kind, tmp_path / "tools"))


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "in side").mkdir()
    return tmp_path / "in side"


@pytest.fixture
def users_place(kind: str) -> Iterator[Path]:
    """A directory that another user may enter, with a toolbox in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)
        toolbox(kind, place / "tools")
        (place / "inside").mkdir()
        yield place


def _users_transport(place: Path) -> ShellTransport:
    setpriv = shutil.which("setpriv")
    assert setpriv
    user = (setpriv, "--reuid=1234", "--regid=1234", "--clear-groups")
    return ShellTransport(place / "tools", user)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- what is kept ---


async def test_a_tree_comes_back_as_it_went_in(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    tree = _odd_tree(tmp_path / "tree")
    os.mkfifo(tree / "fifo", 0o640)
    await node.put(tree, f"{inside}/tree")
    assert _snapshot(inside / "tree") == _snapshot(tree)
    await node.get(f"{inside}/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tree)


async def test_an_ordinary_user_of_the_node_keeps_modes_too(
    users_place: Path, tmp_path: Path
) -> None:
    node, inside = _users_transport(users_place), users_place / "inside"
    os.chown(inside, 1234, 1234)
    tree = _odd_tree(tmp_path / "tree")
    await node.put(tree, f"{inside}/tree")
    assert _snapshot(inside / "tree") == _snapshot(tree)
    assert (inside / "tree" / "private" / "key").stat().st_uid == 1234
    await node.get(f"{inside}/tree", tmp_path / "back")
    assert (tmp_path / "back" / "private" / "key").stat().st_uid == 0


async def test_times_are_kept_to_the_second(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    tree = _small_tree(tmp_path / "tree")
    times = {"file": 1_000_000_000.75, "sub": 900_000_000.0, ".": 800_000_000.0, "sub/deep": 100.5}
    for name, moment in times.items():
        os.utime(tree / name, (moment, moment))
    await node.put(tree, f"{inside}/tree")
    await node.get(f"{inside}/tree", tmp_path / "back")
    for name, moment in times.items():
        for copy in (inside / "tree", tmp_path / "back"):
            assert (copy / name).stat().st_mtime == moment // 1


async def test_odd_names_are_kept(node: ShellTransport, inside: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [*ODD_NAMES, os.fsdecode(b"latin-\xe9"), "n\n" * 127, "\\n", "\\\\", "a\\tb", "%s", "-"]
    for number, name in enumerate(names):
        (tree / name).write_text(name, errors="surrogateescape")
        await node.put(tree / name, str(inside))
        await node.get(f"{inside}/{name}", tmp_path / f"back{number}")
        assert (tmp_path / f"back{number}").read_bytes() == os.fsencode(name)
        assert await node.read_bytes(f"{inside}/{name}") == os.fsencode(name)
        await node.write_bytes(f"{inside}/{name}", b"new")
        assert (inside / name).read_bytes() == b"new"
    await node.put(tree, f"{inside}/-tree")
    await node.get(f"{inside}/-tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tree)


async def test_long_paths_and_links_are_kept(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "tree" / "/".join(["d" * 200] * 8)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (deep / "link").symlink_to("x/" * 1000)
    await node.put(tmp_path / "tree", str(inside))
    await node.get(f"{inside}/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(tmp_path / "tree")


async def test_hard_links_in_the_node_come_out_as_files(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    (inside / "tree" / "sub").mkdir(parents=True)
    (inside / "tree" / "one").write_text("text")
    (inside / "tree" / "sub" / "two").hardlink_to(inside / "tree" / "one")
    await node.get(f"{inside}/tree", tmp_path / "back")
    assert _snapshot(tmp_path / "back") == _snapshot(inside / "tree")


async def test_files_of_proc_and_sys_come_out_whole(node: ShellTransport, tmp_path: Path) -> None:
    await node.get("/proc/version", tmp_path / "version")
    assert (tmp_path / "version").read_bytes() == Path("/proc/version").read_bytes()
    await node.get("/sys/class/net/lo/mtu", tmp_path / "mtu")
    assert (tmp_path / "mtu").read_text() == "65536\n"
    await node.put(Path("/proc/version"), f"{tmp_path}/put")
    assert (tmp_path / "put").read_bytes() == Path("/proc/version").read_bytes()


# --- the target ---


async def test_the_target_follows_the_rules_of_cp(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    tree = _small_tree(tmp_path / "tree")
    (inside / "dir").mkdir()
    (inside / "link").symlink_to("dir")
    for target in ("dir", "dir/", "link", "link/"):
        await node.put(tree, f"{inside}/{target}")
        await node.put(tree / "file", f"{inside}/{target}")
        assert _names(inside / "dir") == ["file", "tree"]
        shutil.rmtree(inside / "dir" / "tree")
    await node.put(tree, f"{inside}/new")
    assert _snapshot(inside / "new") == _snapshot(tree)
    await node.get(f"{inside}/new/.", tmp_path)
    assert (tmp_path / "sub" / "deep").read_text() == "deep"
    await node.get(f"{inside}/new/sub/..", tmp_path / "up")
    assert _snapshot(tmp_path / "up") == _snapshot(tree)


async def test_what_is_no_directory_is_replaced(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("new")
    (tmp_path / "link").symlink_to("elsewhere")
    (inside / "victim").write_text("stays")
    (inside / "file").write_text("a longer text")
    (inside / "link").symlink_to("victim")
    (inside / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling"):
        await node.put(tmp_path / "file", f"{inside}/{name}")
        assert (inside / name).read_text() == "new"
        assert not (inside / name).is_symlink()
        await node.put(tmp_path / "link", f"{inside}/{name}")
        assert str((inside / name).readlink()) == "elsewhere"
    assert _names(inside) == ["dangling", "file", "link", "victim"]
    assert (inside / "victim").read_text() == "stays"


async def test_a_file_that_cannot_be_replaced_is_filled(users_place: Path, tmp_path: Path) -> None:
    node, inside = _users_transport(users_place), users_place / "inside"
    (inside / "mine").write_text("a longer text")
    os.chown(inside / "mine", 1234, 1234)
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").chmod(0o741)
    os.utime(tmp_path / "new", (1_000_000_000, 1_000_000_000))
    await node.put(tmp_path / "new", f"{inside}/mine")
    status = (inside / "mine").stat()
    assert (inside / "mine").read_text() == "new"
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o741, 1_000_000_000)
    with pytest.raises(PermissionError) as caught:
        await node.put(tmp_path / "new", f"{inside}/other")
    assert caught.value.filename == f"{inside}/other"


async def test_a_merge_changes_nothing_when_something_is_in_the_way(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    tree = _small_tree(tmp_path / "tree")
    for number in range(300):  # more than fits into one question
        (tree / "sub" / f"{number}{'x' * 200}").touch()
    (tree / "sub" / "it's").mkdir()
    (tree / "sub" / "it's" / "deep").write_text("")
    await node.put(tree, str(inside))
    await node.put(tree, str(inside))
    (tree / "file").write_text("new")
    (inside / "tree" / "sub" / "it's" / "deep").unlink()
    (inside / "tree" / "sub" / "it's" / "deep").mkdir()
    with pytest.raises(IsADirectoryError, match="it's/deep"):
        await node.put(tree, str(inside))
    shutil.rmtree(inside / "tree" / "sub" / "it's")
    for make in (Path.touch, lambda path: path.symlink_to("/"), lambda path: path.symlink_to("x")):
        make(inside / "tree" / "sub" / "it's")
        with pytest.raises(FileExistsError, match="tree/sub/it's"):
            await node.put(tree, str(inside))
        (inside / "tree" / "sub" / "it's").unlink()
    assert (inside / "tree" / "file").read_text() == "text"
    with pytest.raises(FileExistsError):
        await node.put(tree, f"{inside}/tree/file")
    (tmp_path / "tree2").write_text("")
    (inside / "tree2").mkdir()
    with pytest.raises(IsADirectoryError):
        await node.put(tmp_path / "tree2", str(inside))


# --- errors ---


async def test_errors_have_the_number_and_the_path(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    tree = _small_tree(tmp_path / "tree")
    (inside / "file").touch()
    cases = [
        (lambda: node.put(tree, f"{inside}/no/tree"), errno.ENOENT, f"{inside}/no/tree"),
        (lambda: node.put(tree, f"{inside}/no/"), errno.ENOENT, f"{inside}/no/"),
        (lambda: node.put(tree, f"{inside}/file/"), errno.ENOTDIR, f"{inside}/file/"),
        (lambda: node.put(tree, f"{inside}/file/tree"), errno.ENOTDIR, f"{inside}/file/tree"),
        (lambda: node.put(tree, "/proc"), errno.ENOENT, "/proc/tree"),
        (lambda: node.put(tree / "file", "/proc/new"), errno.ENOENT, "/proc/new"),
        (lambda: node.put(tree / "no", str(inside)), errno.ENOENT, f"{tree}/no"),
        (lambda: node.get(f"{inside}/no", tmp_path / "x"), errno.ENOENT, f"{inside}/no"),
        (lambda: node.get(f"{inside}/no/no", tmp_path / "x"), errno.ENOENT, f"{inside}/no/no"),
        (lambda: node.get(f"{inside}/file/no", tmp_path / "x"), errno.ENOTDIR, f"{inside}/file/no"),
        (lambda: node.get(f"{inside}/file", tmp_path / "no" / "x"), errno.ENOENT, f"{tmp_path}/no"),
        (lambda: node.get(f"{inside}", tree / "file"), errno.EEXIST, f"{tree}/file"),
        (lambda: node.read_bytes(f"{inside}/no"), errno.ENOENT, f"{inside}/no"),
        (lambda: node.read_bytes(f"{inside}/file/no"), errno.ENOTDIR, f"{inside}/file/no"),
        (lambda: node.read_bytes(f"{inside}"), errno.EISDIR, f"{inside}"),
        (lambda: node.write_bytes(f"{inside}", b""), errno.EISDIR, f"{inside}"),
        (lambda: node.write_bytes(f"{inside}/no/x", b""), errno.ENOENT, f"{inside}/no/x"),
        (lambda: node.write_bytes(f"{inside}/no/x", b"x" * MIB), errno.ENOENT, f"{inside}/no/x"),
        (lambda: node.write_bytes(f"{inside}/file/x", b""), errno.ENOTDIR, f"{inside}/file/x"),
        (lambda: node.write_bytes("/proc/new", b""), errno.ENOENT, "/proc/new"),
        (lambda: node.write_bytes("/dev/full", b"x"), errno.ENOSPC, "/dev/full"),
        (lambda: node.write_bytes("/dev/full", b"x" * MIB), errno.ENOSPC, "/dev/full"),
    ]
    for work, number, path in cases:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
            await work()
        assert (caught.value.errno, caught.value.filename) == (number, path)
    assert not (tmp_path / "x").exists()
    assert (tree / "file").read_text() == "text"
    assert _names(inside) == ["file"]


async def test_sockets_are_refused_in_both_directions(
    node: ShellTransport, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.chdir(tmp_path / "tree")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for work in (
            lambda: node.put(tmp_path / "tree", str(inside)),
            lambda: node.get(os.getcwd(), inside / "x"),
        ):
            with pytest.raises(OSError, match="sockets and devices cannot be copied") as caught:
                await work()
            assert caught.value.filename == f"{tmp_path}/tree/socket"


async def test_a_file_here_that_cannot_be_read_leaves_the_node_alone(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    (inside / "file").write_text("stays")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        await node.put(Path("/proc/self/mem"), f"{inside}/file")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/proc/self/mem")
    assert (inside / "file").read_text() == "stays"
    assert node.started[-1].was_killed


# --- reading and writing ---


async def test_bytes_are_written_and_read_unchanged(node: ShellTransport, inside: Path) -> None:
    for data in (b"", b"-n", b"%s\\n'", bytes(range(256)) * 20, os.urandom(10 * MIB)):
        await node.write_bytes(f"{inside}/file", data)
        assert (inside / "file").read_bytes() == data
        assert await node.read_bytes(f"{inside}/file") == data


async def test_writing_goes_through_symlinks_and_sets_the_mode_only_when_told(
    node: ShellTransport, inside: Path
) -> None:
    (inside / "link").symlink_to("file")
    await node.write_bytes(f"{inside}/link", b"1", 0o4751)
    assert stat.S_IMODE((inside / "file").stat().st_mode) == 0o4751
    (inside / "file").chmod(0o604)
    await node.write_bytes(f"{inside}/link", b"2")
    assert stat.S_IMODE((inside / "file").stat().st_mode) == 0o604
    assert (inside / "file").read_bytes() == b"2"


async def test_reading_a_fifo_does_not_wait(node: ShellTransport, inside: Path) -> None:
    os.mkfifo(inside / "fifo")
    assert await node.read_bytes(f"{inside}/fifo") == b""


# --- streams ---


async def test_a_file_of_96_mib_needs_little_memory(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(96 * MIB)
        big.write(b"begin")
        big.seek(-3, os.SEEK_END)
        big.write(b"end")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await node.put(tmp_path / "big", f"{inside}/big")
    (tmp_path / "big").unlink()
    await node.get(f"{inside}/big", tmp_path / "back")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 48 << 10  # KiB
    with (tmp_path / "back").open("rb") as back:
        assert hashlib.file_digest(back, "sha256").hexdigest() == _digest_of_96_mib()


def _digest_of_96_mib() -> str:
    digest = hashlib.sha256(b"begin" + bytes(MIB - 5))
    for _ in range(94):
        digest.update(bytes(MIB))
    digest.update(bytes(MIB - 3) + b"end")
    return digest.hexdigest()


async def test_a_cancelled_copy_ends_its_command_and_its_thread(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    (inside / "tree").mkdir()
    with (inside / "tree" / "big").open("wb") as big:
        big.truncate(4096 * MIB)
    tar = inside / "tree" / "big"
    for work in (
        lambda: node.put(tar, f"{inside}/copy"),
        lambda: node.get(f"{inside}/tree", tmp_path / "back"),
    ):
        count = len(node.started)
        task = asyncio.create_task(work())
        while len(node.started) == count or not any(
            path.exists() for path in (inside / "copy", tmp_path / "back" / "big")
        ):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert node.started[-1].was_killed
        (inside / "copy").unlink(missing_ok=True)
    size = (tmp_path / "back" / "big").stat().st_size
    assert size < 4096 * MIB
    await asyncio.sleep(0.1)
    assert (tmp_path / "back" / "big").stat().st_size == size


async def test_a_place_here_that_is_full_ends_the_command(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    with (inside / "big").open("wb") as big:
        big.truncate(64 * MIB)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, limits[1]))
    try:
        node.prefix = (shutil.which("prlimit") or "", "--fsize=unlimited")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
            await node.get(f"{inside}/big", tmp_path / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, f"{tmp_path}/back")
    assert node.started[-1].was_killed


async def test_many_copies_at_once_do_not_disturb_each_other(
    node: ShellTransport, inside: Path, tmp_path: Path
) -> None:
    async def there_and_back(number: int) -> str:
        (tmp_path / f"in{number}").write_text(f"{number}\n" * 10_000)
        await node.put(tmp_path / f"in{number}", f"{inside}/{number}")
        await node.get(f"{inside}/{number}", tmp_path / f"out{number}")
        return (tmp_path / f"out{number}").read_text()

    contents = await asyncio.gather(*(there_and_back(number) for number in range(40)))
    assert contents == [f"{number}\n" * 10_000 for number in range(40)]
    assert threading.active_count() < 60


# --- what is mounted ---


def test_the_mount_of_a_path_is_the_deepest_above_it() -> None:
    table = "overlay / overlay rw 0 0\nx /a tmpfs rw 0 0\ny /a/b\\040c ext4 rw 0 0\nz /a/file - ro 0 0\n"
    expected = {"/": "/", "/ab": "/", "/a": "/a", "/a/x": "/a", "/a/b c/d": "/a/b c", "/a/b": "/a"}
    assert {path: mount_of(path, table) for path in expected} == expected
    assert mount_of("/a/file", table) == "/a/file"
    assert mount_of("/a", "") == "/"
