"""Streams of tar: ours are read by every tar, and no stream does harm."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.testing.files import ODD_NAMES, _odd_tree, _small_tree, _snapshot
from pytest_benchscale.transports.archive import CHUNK, pack, pack_bytes, read_file, unpack

MIB = 1 << 20
END = bytes(1024)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A directory to unpack into, with a neighbour that must stay as it is."""
    (tmp_path / "room").mkdir()
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "file").write_text("stays")
    return tmp_path / "room"


def _unpack(chunks: Iterable[bytes], room: Path, name: str | None = "copy") -> None:
    fd = os.open(room, os.O_RDONLY)
    try:
        unpack(chunks, fd, name)
    finally:
        os.close(fd)


def _entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % 512)


def _directory(name: str, **fields: Any) -> bytes:
    return _entry(name, tarfile.DIRTYPE, **fields)


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return _entry(name, kind, linkname=target)


# --- packing ---


@pytest.mark.parametrize("tool", ["tar", "busybox"])
def test_other_tars_read_what_is_packed(tool: str, room: Path, tmp_path: Path) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    tree = _odd_tree(tmp_path / "tree")
    for name in [*ODD_NAMES, "n\n" * 127, os.fsdecode(b"latin-\xe9")]:
        (tree / "sub" / name).write_text(name, errors="surrogateescape")
    deep = tree / "/".join(["d" * 100] * 5)
    deep.mkdir(parents=True)
    (deep / "link").symlink_to("x/" * 100)
    os.mkfifo(tree / "fifo", 0o640)
    command = [tool, *(["tar"] if tool == "busybox" else []), "-xopf", "-", "-C", str(room)]
    stream = b"".join(pack(tree, "copy"))
    subprocess.run(command, input=stream, check=True, umask=0)
    assert _snapshot(room / "copy") == _snapshot(tree)


@pytest.mark.parametrize("tool", ["tar", "busybox"])
def test_what_other_tars_pack_is_read(tool: str, room: Path, tmp_path: Path) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    tree = _odd_tree(tmp_path / "tree")
    for name in [*ODD_NAMES, "n\n" * 127, os.fsdecode(b"latin-\xe9")]:
        (tree / "sub" / name).write_text(name, errors="surrogateescape")
    (tree / "sub" / "hard").hardlink_to(tree / "file")
    command = [tool, *(["tar"] if tool == "busybox" else []), "-cf", "-", "-C", str(tmp_path)]
    made = subprocess.run([*command, "./tree"], check=True, capture_output=True)
    _unpack([made.stdout], room)
    assert _snapshot(room / "copy") == _snapshot(tree)


def test_formats_of_the_standard_library_are_read(room: Path, tmp_path: Path) -> None:
    tree = _odd_tree(tmp_path / "tree")
    (tree / ("n" * 100)).mkdir()
    (tree / ("n" * 100) / ("m" * 150)).symlink_to("x/" * 100)
    os.utime(tree / "file", ns=(0, 1_000_000_000_123_456_789))
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w|", format=form) as archive:
            archive.add(tree, "tree")
        _unpack([made.getvalue()], room, f"copy{form}")
        assert _snapshot(room / f"copy{form}") == _snapshot(tree)
    moment = (room / f"copy{tarfile.PAX_FORMAT}" / "file").stat().st_mtime_ns
    assert abs(moment - 1_000_000_000_123_456_789) < 1000  # the library writes a float


def test_times_are_kept_to_the_second(room: Path, tmp_path: Path) -> None:
    tree = _small_tree(tmp_path / "tree")
    times = {"file": -100.5, "sub/deep": 1e9 + 0.75, "sub": 4e10, ".": 1e9}
    for name, moment in times.items():
        os.utime(tree / name, (moment, moment))
    _unpack(pack(tree, "tree"), room)
    for name, moment in times.items():
        expected = min(moment // 1, (tree / name).stat().st_mtime // 1)  # file systems have limits
        assert (room / "copy" / name).stat().st_mtime == expected


def test_headers_are_those_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "file").chmod(0o4751)
    os.utime(tmp_path / "file", (1e9, 1e9))
    info = tarfile.TarInfo("copy")
    info.size, info.mode, info.mtime, info.uid, info.gid = 4, 0o4751, 10**9, 12, 34
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert b"".join(pack(tmp_path / "file", "copy", owner=(12, 34)))[:512] == header
    info.uid, info.gid = 3_000_000, 0
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert b"".join(pack(tmp_path / "file", "copy", owner=(3_000_000, 0)))[:512] == header


def test_a_file_that_grows_is_packed_as_long_as_it_was(room: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    chunks = pack(tmp_path / "file", "file")
    first = next(chunks)
    with (tmp_path / "file").open("ab") as file:
        file.write(b"y" * MIB)
    _unpack([first, *chunks], room)
    assert (room / "copy").read_bytes() == b"x" * MIB


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    chunks = pack(tmp_path / "file", "file")
    next(chunks)
    os.truncate(tmp_path / "file", MIB // 2)
    with pytest.raises(OSError, match="it became shorter while it was read") as caught:
        list(chunks)
    assert caught.value.filename == str(tmp_path / "file")


def test_files_that_claim_no_size_are_packed_whole() -> None:
    for path in (Path("/proc/version"), Path("/proc/kallsyms")):
        assert read_file(pack(path, "file")) == path.read_bytes()


def test_a_socket_cannot_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match="sockets and devices cannot be copied") as caught:
            list(pack(tmp_path, "tree"))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert caught.value.filename == f"{tmp_path}/socket"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        list(pack(tmp_path / "no-such-file", "file"))
    with pytest.raises(OSError, match="/proc/self/mem"):
        list(pack(Path("/proc/self/mem"), "file"))


def test_chunks_are_neither_tiny_nor_huge(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).write_text("text")
    (tmp_path / "big").write_bytes(bytes(3 * MIB))
    sizes = [len(chunk) for chunk in pack(tmp_path, "tree")]
    assert all(CHUNK <= size < 3 * CHUNK for size in sizes[:-1])


def test_large_files_need_little_memory(room: Path, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(64 * MIB)
    tracemalloc.start()
    _unpack(pack(tmp_path / "big", "big"), room)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB
    assert (room / "copy").stat().st_size == 64 * MIB


# --- where it goes ---


def test_names_and_chunks_may_be_anything(room: Path, tmp_path: Path) -> None:
    tree = _odd_tree(tmp_path / "tree")
    stream = b"".join(pack(tree, "./odd name/".strip("/")[2:]))
    for size in (1, 7, 511, 512, 513, len(stream)):
        chunks = (stream[start : start + size] for start in range(0, len(stream), size))
        _unpack(chunks, room, f"copy{size}")
        assert _snapshot(room / f"copy{size}") == _snapshot(tree)


def test_without_a_name_the_streams_own_is_taken(room: Path, tmp_path: Path) -> None:
    tree = _small_tree(tmp_path / "tree")
    _unpack(pack(tree, "own"), room, None)
    assert _snapshot(room / "own") == _snapshot(tree)
    _unpack(pack(tree, "."), room, None)
    assert (room / "file").read_text() == "text"
    _unpack(pack(tree, "."), room, "copy")
    assert _snapshot(room / "copy") == _snapshot(tree)
    for name in ("", "..", "a/b"):
        with pytest.raises(ValueError, match="not the name of one entry"):
            _unpack([], room, name)


def test_directories_are_merged_and_all_else_is_replaced(room: Path, tmp_path: Path) -> None:
    tree = _small_tree(tmp_path / "tree")
    (room / "copy").mkdir(mode=0o700)
    (room / "copy" / "other").write_text("stays")
    (room / "copy" / "file").symlink_to(tmp_path / "neighbour" / "file")
    _unpack(pack(tree, "tree"), room)
    assert (room / "copy" / "other").read_text() == "stays"
    assert (room / "copy" / "file").read_text() == "text"
    hard = tmp_path / "neighbour" / "hard"
    hard.hardlink_to(room / "copy" / "file")
    (tree / "file").write_text("new")
    _unpack(pack(tree, "tree"), room)
    assert (room / "copy" / "file").read_text() == "new"
    assert hard.read_text() == "text"


def test_files_and_directories_do_not_replace_each_other(room: Path, tmp_path: Path) -> None:
    tree = _small_tree(tmp_path / "tree")
    (room / "copy" / "file").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="copy/file"):
        _unpack(pack(tree, "tree"), room)
    shutil.rmtree(room / "copy")
    for target in (None, ".", "nowhere"):
        if target is None:
            (room / "copy").write_text("stays")
        else:
            (room / "copy").symlink_to(target)
        with pytest.raises(FileExistsError, match="copy"):
            _unpack(pack(tree, "tree"), room)
        (room / "copy").unlink()


def test_rights_of_owners_are_not_handed_on(room: Path) -> None:
    _unpack([_entry("file", mode=0o6755) + END], room)
    assert stat.S_IMODE((room / "copy").stat().st_mode) == 0o755
    _unpack([_directory("d", mode=0o7777) + END], room, "directory")
    assert stat.S_IMODE((room / "directory").stat().st_mode) == 0o1777


# --- streams that mean harm ---

TREE = _directory("tree")
HOSTILE = {
    "an absolute name": (TREE + _entry("/tmp/evil"), "leads out of it"),
    "an absolute first name": (_entry("/tmp/evil"), "leads out of it"),
    "a way up": (TREE + _entry("tree/../evil"), "leads out of it"),
    "a way up at first": (_entry(".."), "leads out of it"),
    "a sibling": (TREE + _entry("evil"), "not of what was asked for"),
    "a deep beginning": (_entry("a/b"), "does not begin with what was asked for"),
    "a file below a file": (_entry("tree") + _entry("tree/evil"), "Not a directory: 'copy/evil'"),
    "through a symlink": (
        TREE + _link("tree/out", "../../neighbour") + _entry("tree/out/file", data=b"evil"),
        "Not a directory: 'copy/out/file'",
    ),
    "through a symlink that is the root": (
        _link("tree", "../neighbour") + _entry("tree/file", data=b"evil"),
        "Not a directory: 'copy/file'",
    ),
    "a directory over a symlink": (
        TREE + _link("tree/out", "../../neighbour") + _directory("tree/out", mode=0),
        "File exists: 'copy/out'",
    ),
    "a hard link out": (
        TREE + _link("tree/hard", "../neighbour/file", tarfile.LNKTYPE),
        "leads out of it: 'copy/hard'",
    ),
    "an absolute hard link": (
        TREE + _link("tree/hard", "/etc/passwd", tarfile.LNKTYPE),
        "leads out of it: 'copy/hard'",
    ),
    "a hard link through a symlink": (
        TREE
        + _link("tree/out", "../../neighbour")
        + _link("tree/hard", "tree/out/file", tarfile.LNKTYPE)
        + _entry("tree/hard", data=b"evil"),
        "Not a directory: 'copy/hard'",
    ),
    "a hard link to a symlink": (
        TREE
        + _link("tree/out", "../../neighbour/file")
        + _link("tree/hard", "tree/out", tarfile.LNKTYPE),
        "a hard link to what is no file: 'copy/hard'",
    ),
    "a device": (TREE + _entry("tree/null", tarfile.CHRTYPE), "devices cannot be copied"),
    "a disk": (TREE + _entry("tree/disk", tarfile.BLKTYPE), "devices cannot be copied"),
    "a sparse file": (TREE + _entry("tree/s", tarfile.GNUTYPE_SPARSE), "such entries"),
    "a file of no known kind": (TREE + _entry("tree/x", b"Z"), "such entries cannot be copied"),
    "a file in place of a directory": (TREE + _entry("tree"), "Is a directory: 'copy'"),
    "a long name without end": (
        _entry("long", tarfile.GNUTYPE_LONGNAME, size=1 << 40),
        "impossible size",
    ),
    "a long header without end": (
        _entry("long", tarfile.XHDTYPE, size=1 << 40),
        "impossible size",
    ),
    "a name longer than can be": (
        TREE + _entry("x", tarfile.GNUTYPE_LONGNAME, b"tree/" + b"n" * 5000) + _entry("x"),
        "File name too long",
    ),
    "a nul in a name": (
        TREE + _entry("x", tarfile.XHDTYPE, b"14 path=tr\0ee\n") + _entry("x"),
        "holds a null byte",
    ),
    "a nul in a link": (
        TREE + _entry("x", tarfile.XHDTYPE, b"18 linkpath=tr\0ee\n") + _link("tree/x", "y"),
        "holds a null byte: 'tree/x'",
    ),
    "a pax record without end": (TREE + _entry("x", tarfile.XHDTYPE, b"9 "), "is damaged"),
    "a pax record of nothing": (TREE + _entry("x", tarfile.XHDTYPE, b"0 a=b\n"), "is damaged"),
    "a pax time that is none": (
        TREE + _entry("x", tarfile.XHDTYPE, b"13 mtime=nan\n") + _entry("tree/x"),
        "is damaged",
    ),
    "a pax size below nothing": (
        TREE + _entry("x", tarfile.XHDTYPE, b"11 size=-9\n") + _entry("tree/x"),
        "impossible size",
    ),
    "a size below nothing": (TREE + _entry("tree/x", size=-512), "impossible size"),
    "a time beyond all times": (TREE + _entry("tree/x", mtime=1 << 80), "size or time: 'tree/x'"),
    "a wrong checksum": (TREE + b"x" * 512, "damaged"),
    "no end": (TREE, "ends too early"),
    "an end in a header": (TREE + END[:100], "ends too early"),
    "an end in a file": (TREE + _entry("tree/x", data=b"x" * 600)[:1000], "early: 'copy/x'"),
    "nothing": (b"", "ends too early"),
    "an end at once": (END, "the archive is empty"),
}
UNENDED = {"no end", "an end in a header", "an end in a file", "nothing"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_ends_in_an_error(name: str, room: Path, tmp_path: Path) -> None:
    stream, message = HOSTILE[name]
    outside = tmp_path / "neighbour"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the message is looked at
        _unpack([stream if name in UNENDED else stream + END], room)
    shown = f"{caught.value.strerror}: {caught.value.filename!r}"
    assert message in shown
    assert caught.value.errno
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "stays"
    assert (outside / "file").stat().st_nlink == 1
    assert {path.name for path in room.iterdir()} <= {"copy"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neighbour", "room"]


def test_a_stream_that_goes_on_after_its_end_is_cut_off(room: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield _entry("file") + END
        while True:
            yield bytes(MIB // 4)

    with pytest.raises(OSError, match="does not end where it says"):
        _unpack(endless(), room)


def test_hard_links_within_the_tree_are_kept(room: Path) -> None:
    stream = (
        TREE
        + _entry("tree/one", data=b"text")
        + _link("tree/two", "tree/one", tarfile.LNKTYPE)
        + _link("tree/two", "./tree/two", tarfile.LNKTYPE)
    )
    _unpack([stream + END], room)
    assert (room / "copy" / "two").read_text() == "text"
    assert (room / "copy" / "two").samefile(room / "copy" / "one")


def test_of_two_entries_of_one_name_the_last_is_kept(room: Path) -> None:
    stream = TREE + _entry("tree/x", data=b"1") + _link("tree/x", "y") + _entry("tree/x", data=b"2")
    _unpack([stream + END], room)
    assert (room / "copy" / "x").read_text() == "2"


def test_an_error_leaves_what_was_done_before(room: Path) -> None:
    with pytest.raises(OSError, match="devices cannot be copied"):
        _unpack([TREE + _entry("tree/x", data=b"1") + _entry("tree/y", tarfile.CHRTYPE)], room)
    assert (room / "copy" / "x").read_text() == "1"


def test_a_deep_tree_needs_few_descriptors(room: Path) -> None:
    names = ["tree", *("d" for _ in range(300))]
    stream = b"".join(_directory("/".join(names[: depth + 1])) for depth in range(len(names)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        _unpack([stream + END], room)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (room / "copy" / "/".join(["d"] * 300)).is_dir()


def test_damaged_streams_never_write_elsewhere(room: Path, tmp_path: Path) -> None:
    tree = _odd_tree(tmp_path / "tree")
    (tree / ("n" * 120)).symlink_to("x/" * 60)
    good = b"".join(pack(tree, "tree"))
    before = _snapshot(tmp_path / "neighbour")
    seed = time.time_ns()
    generator = random.Random(seed)
    for number in range(60):
        stream = bytearray(good)
        for _ in range(generator.randrange(1, 6)):
            position = generator.randrange(len(stream))
            match generator.randrange(3):
                case 0:
                    stream[position] = generator.randrange(256)
                case 1:
                    block = position // 512 * 512
                    stream[block : block + 512] = _random_entry(generator)
                case _:
                    del stream[position // 512 * 512 :][:512]
        with suppress(OSError):
            _unpack([bytes(stream)], room, f"copy{number}")
        names = {path.name for path in room.iterdir()}
        assert names <= {f"copy{number}"}, f"seed {seed}"
        subprocess.run(["rm", "-rf", *(room / name for name in names)], check=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["neighbour", "room", "tree"]
    assert _snapshot(tmp_path / "neighbour") == before


def _random_entry(generator: random.Random) -> bytes:
    kinds = [bytes([value]) for value in b"01235567LKxgSZ"]
    names = ["tree", "tree/x", "tree/sub", "tree/sub/deep", "../neighbour/file", "/", "", "tree/.."]
    entry = _entry(
        generator.choice(names),
        generator.choice(kinds),
        linkname=generator.choice(names),
        size=generator.choice([0, 0, 3, 512, 1 << 35]),
    )
    return entry[-512:]


# --- one file ---


def test_one_file_is_packed_and_read() -> None:
    for data in (b"", b"x" * 512, os.urandom(3 * MIB)):
        assert read_file([pack_bytes(data, "name", 0o640, 5)]) == data
    with pytest.raises(IsADirectoryError):
        read_file([TREE + END])
    with pytest.raises(OSError, match="other than one file"):
        read_file([_entry("a") + _entry("b") + END])
    with pytest.raises(OSError, match="other than one file"):
        read_file([_link("a", "b") + END])
    with pytest.raises(OSError, match="empty"):
        read_file([END])
