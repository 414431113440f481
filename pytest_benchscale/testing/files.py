"""What `put`, `get` and the read and write methods promise."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import MIB, Contract, requires

__all__ = ["FileContract"]

ODD_NAMES = [
    *["two words", " leading", "trailing ", "-dash", "--help", ".hidden", "new\nline", "tab\there"],
    *["it's", '"quoted"', "back\\slash", "*", "?", "[a]", "~", "$HOME", "`id`", "a;b", "a&b", "#"],
    *["é", "e\u0301", "世界", "🜁", "x" * 255],
]


class FileContract(Contract):
    """Copying in and out, reading and writing."""

    # --- one file ---

    async def test_a_file_goes_in(self, node: Node, inside: str, tmp_path: Path) -> None:
        source = tmp_path / "file"
        source.write_bytes(bytes(range(256)))
        await node.put(source, f"{inside}/copy")
        assert (await node.exec(["cat", f"{inside}/copy"])).stdout_bytes == bytes(range(256))

    async def test_a_file_comes_out(self, node: Node, inside: str, tmp_path: Path) -> None:
        await node.exec(f"printf 'a\\000b\\377' > {inside}/file", check=True)
        await node.get(f"{inside}/file", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"a\0b\xff"

    async def test_paths_may_be_text(self, node: Node, inside: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text")
        await node.put(str(tmp_path / "file"), f"{inside}/copy")
        await node.get(f"{inside}/copy", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "text"

    async def test_an_empty_file_stays_an_empty_file(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").touch()
        await node.put(tmp_path / "empty", f"{inside}/empty")
        await node.get(f"{inside}/empty", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b""

    async def test_100_mib_go_in_and_come_out_unchanged(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        block = os.urandom(MIB)
        with (tmp_path / "big").open("wb") as big:
            for number in range(100):
                big.write(number.to_bytes(4) + block[4:])
        await node.put(tmp_path / "big", f"{inside}/big")
        await node.get(f"{inside}/big", tmp_path / "back")
        await node.exec(["rm", f"{inside}/big"], check=True)
        assert _digest(tmp_path / "back") == _digest(tmp_path / "big")

    # --- the target: the rules of `cp -a` ---

    async def test_a_target_that_is_a_directory_gets_the_source_inside(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        source = _small_tree(tmp_path / "tree")
        await node.exec(["mkdir", f"{inside}/target"], check=True)
        (tmp_path / "target").mkdir()
        for target in (f"{inside}/target", f"{inside}/target/"):
            await node.put(source, target)
            await node.put(source / "file", target)
            assert await _names(node, f"{inside}/target") == ["file", "tree"]
            await node.get(f"{inside}/target/tree", tmp_path / "target")
            await node.get(f"{inside}/target/file", tmp_path / "target")
            assert _names_here(tmp_path / "target") == ["file", "tree"]
            await node.exec(["rm", "-r", f"{inside}/target/tree"], check=True)
        assert _snapshot(tmp_path / "target" / "tree") == _snapshot(source)

    async def test_a_target_that_is_new_becomes_the_copy(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        source = _small_tree(tmp_path / "tree")
        await node.put(source, f"{inside}/copy")
        assert await _names(node, f"{inside}/copy") == await _names(node, f"{inside}/copy/.")
        assert await _names(node, f"{inside}/copy") == ["file", "sub"]
        await node.get(f"{inside}/copy", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(source)

    async def test_a_target_that_is_a_file_is_replaced_by_a_file(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        (tmp_path / "short").write_text("new")
        (tmp_path / "target").write_text("a much longer old content")
        await node.write_text(f"{inside}/target", "a much longer old content")
        await node.put(tmp_path / "short", f"{inside}/target")
        assert await node.read_text(f"{inside}/target") == "new"
        await node.get(f"{inside}/target", tmp_path / "target")
        assert (tmp_path / "target").read_text() == "new"

    async def test_a_target_that_is_a_file_is_not_replaced_by_a_directory(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        source = _small_tree(tmp_path / "tree")
        (tmp_path / "file").write_text("stays")
        await node.put(tmp_path / "file", f"{inside}/file")
        with pytest.raises(LabError, match=f"{inside}/file"):
            await node.put(source, f"{inside}/file")
        assert await node.read_text(f"{inside}/file") == "stays"
        await node.put(source, f"{inside}/tree")
        with pytest.raises(LabError, match="file"):
            await node.get(f"{inside}/tree", tmp_path / "file")
        assert (tmp_path / "file").read_text() == "stays"

    async def test_a_directory_put_twice_into_a_directory_is_merged(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        source = _small_tree(tmp_path / "tree")
        await node.put(source, inside)
        (source / "file").write_text("second")
        (source / "more").write_text("more")
        await node.put(source, inside)
        assert await _names(node, f"{inside}/tree") == ["file", "more", "sub"]
        assert await node.read_text(f"{inside}/tree/file") == "second"

    async def test_a_target_below_a_missing_directory_is_an_error(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("text")
        with pytest.raises(LabError, match="missing/file"):
            await node.put(tmp_path / "file", f"{inside}/missing/file")
        await node.put(tmp_path / "file", f"{inside}/file")
        with pytest.raises(LabError, match="missing"):
            await node.get(f"{inside}/file", tmp_path / "missing" / "file")

    # --- what is kept ---

    async def test_a_tree_comes_back_as_it_went_in(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        source = _odd_tree(tmp_path / "tree")
        await node.put(source, f"{inside}/tree")
        await node.get(f"{inside}/tree", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(source)

    async def test_modes_are_kept(self, node: Node, inside: str, tmp_path: Path) -> None:
        modes = {"script": 0o755, "secret": 0o600, "read-only": 0o444, "open": 0o666}
        for name, mode in modes.items():
            (tmp_path / name).write_text("#!/bin/sh\necho ran\n")
            (tmp_path / name).chmod(mode)
            await node.put(tmp_path / name, inside)
            shown = await node.exec(["stat", "-c", "%a", f"{inside}/{name}"], check=True)
            assert int(shown.stdout, 8) == mode
            await node.get(f"{inside}/{name}", tmp_path / f"{name}.back")
            assert stat.S_IMODE((tmp_path / f"{name}.back").stat().st_mode) == mode
        assert (await node.exec([f"{inside}/script"])).stdout == "ran\n"

    async def test_symlinks_are_copied_not_followed(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        tree = tmp_path / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "file").write_text("text")
        links = {"relative": "file", "dangling": "no/such", "up": "../..", "directory": "sub"}
        links["absolute"] = str(tree / "file")
        for name, target in links.items():
            (tree / name).symlink_to(target)
        await node.put(tree, f"{inside}/tree")
        for name, target in links.items():
            shown = await node.exec(["readlink", f"{inside}/tree/{name}"], check=True)
            assert shown.stdout == f"{target}\n"
        await node.get(f"{inside}/tree", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(tree)

    async def test_a_source_that_is_a_symlink_is_copied_as_one(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to("no-such-file")
        await node.put(tmp_path / "link", inside)
        shown = await node.exec(["readlink", f"{inside}/link"], check=True)
        assert shown.stdout == "no-such-file\n"
        await node.get(f"{inside}/link", tmp_path / "back")
        assert str((tmp_path / "back").readlink()) == "no-such-file"

    async def test_an_absolute_symlink_in_the_node_never_leads_to_the_host(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        here, there = tmp_path / "who", f"{tmp_path}/who"  # one path, two file systems
        here.write_text("host")
        await node.write_text(there, "node")
        await node.exec(f"cd {inside}; ln -s {there} link; ln -s {tmp_path} directory", check=True)
        for path in (f"{inside}/link", f"{inside}/directory/who", f"/../..{there}"):
            assert await node.read_text(path) == "node"
        await node.get(f"{inside}/directory/who", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "node"
        await node.write_text(f"{inside}/link", "written")
        await node.put(tmp_path / "back", f"{inside}/directory")
        assert here.read_text() == "host"
        assert await _names(node, str(tmp_path)) == ["back", "who"]
        assert await node.read_text(there) == "written"

    async def test_odd_names_are_kept(self, node: Node, inside: str, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        tree.mkdir()
        for name in ODD_NAMES:
            (tree / name).write_text(name)
            await node.put(tree / name, f"{inside}/{name}")
            assert await node.read_text(f"{inside}/{name}") == name
        await node.put(tree, f"{inside}/tree")
        await node.get(f"{inside}/tree", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(tree)

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
    async def test_names_that_are_not_utf8_are_kept(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / os.fsdecode(b"latin-\xe9")).write_text("text")
        await node.put(tree, f"{inside}/tree")
        await node.get(f"{inside}/tree", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(tree)

    async def test_1000_small_files_are_kept(self, node: Node, inside: str, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        for number in range(1000):
            file = tree / f"sub{number % 10}" / f"file{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"content {number}\n" * (number % 50))
        await node.put(tree, f"{inside}/tree")
        await node.get(f"{inside}/tree", tmp_path / "back")
        assert _snapshot(tmp_path / "back") == _snapshot(tree)

    async def test_many_copies_at_once_do_not_disturb_each_other(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        async def there_and_back(number: int) -> str:
            (tmp_path / f"in{number}").write_text(f"{number}\n" * 10_000)
            await node.put(tmp_path / f"in{number}", f"{inside}/{number}")
            await node.get(f"{inside}/{number}", tmp_path / f"out{number}")
            return (tmp_path / f"out{number}").read_text()

        contents = await asyncio.gather(*(there_and_back(number) for number in range(20)))
        assert contents == [f"{number}\n" * 10_000 for number in range(20)]

    # --- read and write ---

    async def test_bytes_are_written_and_read_unchanged(self, node: Node, inside: str) -> None:
        for data in (b"", bytes(range(256)), os.urandom(10 * MIB)):
            await node.write_bytes(f"{inside}/file", data)
            assert hashlib.sha256(await node.read_bytes(f"{inside}/file")).digest() == (
                hashlib.sha256(data).digest()
            )

    async def test_text_is_written_and_read_as_utf8(self, node: Node, inside: str) -> None:
        text = "naïve 世界\r\nnext line, no newline"
        await node.write_text(f"{inside}/file", text)
        assert await node.read_text(f"{inside}/file") == text
        assert (await node.exec(["cat", f"{inside}/file"])).stdout_bytes == text.encode()

    async def test_writing_replaces_what_was_there(self, node: Node, inside: str) -> None:
        await node.write_text(f"{inside}/file", "a longer text")
        await node.write_text(f"{inside}/file", "short")
        assert await node.read_text(f"{inside}/file") == "short"

    async def test_writing_creates_missing_directories(self, node: Node, inside: str) -> None:
        await node.write_text(f"{inside}/a/new place/file", "text")
        assert await node.read_text(f"{inside}/a/new place/file") == "text"

    async def test_a_file_of_proc_is_read_whole(self, node: Node) -> None:
        assert "Name:" in await node.read_text("/proc/1/status")

    # --- errors say what, where and what to do ---

    async def test_a_missing_source_is_an_error_that_names_it(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        with pytest.raises(LabError, match="no-such-source"):
            await node.put(tmp_path / "no-such-source", inside)
        with pytest.raises(LabError, match="no-such-source") as caught:
            await node.get(f"{inside}/no-such-source", tmp_path / "copy")
        assert caught.value.node == node.name
        assert not (tmp_path / "copy").exists()

    async def test_reading_what_is_no_file_is_an_error_that_names_it(
        self, node: Node, inside: str
    ) -> None:
        for path in (f"{inside}/no-such-file", inside, "/etc/passwd/below-a-file"):
            with pytest.raises(LabError, match=path) as caught:
                await node.read_bytes(path)
            assert caught.value.node == node.name
            assert caught.value.resolution

    async def test_a_place_that_cannot_be_written_is_an_error_that_names_it(
        self, node: Node, inside: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("text")
        for path in ("/proc/no-such-entry", inside):
            with pytest.raises(LabError, match=path) as caught:
                await node.write_text(path, "text")
            assert caught.value.node == node.name
        with pytest.raises(LabError, match="/proc/no-such-entry"):
            await node.put(tmp_path / "file", "/proc/no-such-entry")
        with pytest.raises(LabError, match="/proc"):
            await node.put(_small_tree(tmp_path / "tree"), "/proc")

    @requires(Capability.VOLUMES)
    async def test_volumes_show_host_directories(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "file").write_text("from the host")
        volumes = """
            nodes:
              - name: alpha
                volumes: ["./data:/srv/data", "./data:/srv/fixed:ro", "./data:/srv/label:ro,z"]
            """
        with self.open(volumes, tmp_path) as lab:
            node = lab["alpha"]
            assert await node.read_text("/srv/fixed/file") == "from the host"
            await node.write_text("/srv/data/answer", "from the node")
            assert (tmp_path / "data" / "answer").read_text() == "from the node"
            with pytest.raises(LabError, match="/srv/fixed/answer"):
                await node.write_text("/srv/fixed/answer", "never")
            with pytest.raises(LabError, match="/srv/fixed"):
                await node.put(tmp_path / "data" / "file", "/srv/fixed/other")
            with pytest.raises(LabError, match="/srv/label/answer"):
                await node.write_text("/srv/label/answer", "never")
            assert _names_here(tmp_path / "data") == ["answer", "file"]


def _small_tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("text")
    (root / "sub" / "deep").write_text("deep")
    return root


def _odd_tree(root: Path) -> Path:
    """A tree with an example of everything that is kept."""
    _small_tree(root)
    (root / "empty directory").mkdir()
    (root / "empty file").touch()
    (root / "program").write_bytes(b"\x7fELF\0")
    (root / "program").chmod(0o755)
    (root / "private").mkdir(mode=0o700)
    (root / "private" / "key").write_text("secret")
    (root / "private" / "key").chmod(0o600)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o1777)
    (root / "link").symlink_to("sub/deep")
    (root / "dangling").symlink_to("/no/such/place")
    (root / "read-only").mkdir()
    (root / "read-only" / "file").write_text("text")
    (root / "read-only").chmod(0o555)
    return root


def _snapshot(root: Path) -> dict[str, tuple[int, str]]:
    """Map every path below root to its type and mode and the digest of its content."""
    found = {}
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        if path.is_symlink():
            mode, content = stat.S_IFLNK, str(path.readlink())  # a link's own mode means nothing
        else:
            content = _digest(path) if path.is_file() else ""
        found[str(path.relative_to(root))] = (mode, content)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names_here(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def _names(node: Node, directory: str) -> list[str]:
    listing = await node.exec(["ls", "-A", directory], check=True)
    return sorted(listing.stdout.splitlines())
