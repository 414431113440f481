"""Images by path and by URL, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_benchscale.backends.libvirt import download
from pytest_benchscale.backends.libvirt.images import (
    Image,
    cache_directory,
    check_size,
    fetch,
)
from pytest_benchscale.errors import LabError
from tests.unit.backends_libvirt import disks
from tests.unit.backends_libvirt.file_server import Server, serving

DISK = disks.qcow2(data=b"data" * 10_000)
SUM = hashlib.sha256(DISK).hexdigest()
OTHER = disks.qcow2(data=b"other" * 10_000)
WRONG = "0" * 64


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_FIRST_PAUSE", 0.01)
    with serving() as server:
        yield server


async def _fetch(reference: str, tmp_path: Path, said: list[str] | None = None) -> Image:
    progress = None if said is None else said.append
    return await fetch(reference, directory=tmp_path, cache=tmp_path / "cache", progress=progress)


def _kept(tmp_path: Path) -> list[str]:
    images = tmp_path / "cache" / "images"
    return sorted(path.name for path in images.glob("*/*") if path.name != "lock")


# --- paths ---


async def test_a_path_is_relative_to_the_topologys_directory(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(DISK)
    image = await _fetch("./disk.qcow2", tmp_path)
    assert image == Image(tmp_path / "disk.qcow2", "qcow2", 1 << 30, SUM, len(DISK))


async def test_a_path_may_begin_with_the_home_directory_and_have_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "disk#1.qcow2").write_bytes(DISK)
    image = await _fetch(f"~/disk#1.qcow2#sha256={SUM.upper()}", Path("/"))
    assert image.path == tmp_path / "disk#1.qcow2"


async def test_a_file_that_was_written_to_gets_its_sum_anew(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(DISK)
    before = await _fetch(str(path), tmp_path)
    assert await _fetch(str(path), tmp_path) == before
    path.write_bytes(OTHER)
    assert (await _fetch(str(path), tmp_path)).sha256 == hashlib.sha256(OTHER).hexdigest()


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("./disk.qcow", "is not there; did you mean disk.qcow2?"),
        ("nowhere/disk.qcow2", "there is no directory"),
        ("~nobody-of-that-name/disk.qcow2", "there is no directory"),
        ("./", "cannot be used: it is a directory"),
        ("text.img", "cannot be used: it is neither a qcow2 image nor a raw one"),
        (f"disk.qcow2#sha256={WRONG}", "has not the SHA-256 that is asked for"),
        ("disk.qcow2#sha256=abc", "the sum 'sha256=abc', which is no SHA-256"),
        ("ftp://localhost/disk.qcow2", "images are not fetched by ftp"),
        ("https://localhost/disk.qcow2#md5=abc", "the sum 'md5=abc', which is no SHA-256"),
    ],
)
async def test_a_reference_to_nothing_of_use_is_an_error_that_says_what_to_do(
    tmp_path: Path, reference: str, reason: str
) -> None:
    (tmp_path / "disk.qcow2").write_bytes(DISK)
    (tmp_path / "text.img").write_text("hello")
    with pytest.raises(LabError) as caught:
        await _fetch(reference, tmp_path)
    assert reason in caught.value.brief
    assert caught.value.step == "image"
    assert caught.value.resolution


async def test_a_disk_is_as_large_as_declared_and_never_smaller_than_its_image() -> None:
    image = Image(Path("debian.qcow2"), "qcow2", 2 << 30, SUM, 1)
    assert check_size(image, None, node="a") == 2 << 30
    assert check_size(image, 2, node="a") == 2 << 30
    assert check_size(image, 10.5, node="a") == 21 << 29
    with pytest.raises(LabError, match=r"is a disk of 2 GiB, and `disk_gb` is 1\.5") as caught:
        check_size(image, 1.5, node="a")
    assert "2,147,483,648 bytes" in str(caught.value)
    assert "set `disk_gb` to 2 or more" in str(caught.value)


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/pytest-benchscale")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == Path("/home/me/.cache/pytest-benchscale")


# --- URLs ---


async def test_an_image_is_downloaded_once_and_its_sum_noted(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("images/debian.qcow2", DISK)
    said: list[str] = []
    image = await _fetch(url, tmp_path, said)
    assert image.path.read_bytes() == DISK
    assert image.path.name == "debian.qcow2"
    assert (image.format, image.virtual_size, image.sha256) == ("qcow2", 1 << 30, SUM)
    assert "downloading debian.qcow2" in said
    assert await _fetch(url, tmp_path) == image
    assert await _fetch(f"{url}#sha256={SUM}", tmp_path) == image
    assert len(server.requests) == 1
    assert _kept(tmp_path) == ["debian.qcow2", "image.json"]


async def test_who_asks_at_the_same_time_shares_one_download(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK)
    first, second = await asyncio.gather(_fetch(url, tmp_path), _fetch(url, tmp_path))
    assert first == second
    assert server.statuses == [200]


async def test_another_session_waits_for_the_download_and_has_it_too(
    tmp_path: Path, server: Server
) -> None:
    release = threading.Event()
    url = server.put("disk", DISK, stall=release)
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER_SESSION, url, str(tmp_path)], stdin=subprocess.PIPE
    )
    try:
        while not server.requests:
            await asyncio.sleep(0.01)
        said: list[str] = []
        task = asyncio.create_task(_fetch(url, tmp_path, said))
        while not said:
            await asyncio.sleep(0.01)
        assert said == ["waiting for disk, which another session downloads"]
        server.files["/disk"].stall = None
        release.set()  # the other's answer ends too early, so it asks for the rest
        assert (await asyncio.wait_for(task, 20)).sha256 == SUM
    finally:
        release.set()
        other.communicate(timeout=20)
    assert other.returncode == 0
    assert server.statuses == [200, 206]


_OTHER_SESSION = """
import asyncio, sys
from pathlib import Path
from pytest_benchscale.backends.libvirt import download
from pytest_benchscale.backends.libvirt.images import fetch
url, directory = sys.argv[1], Path(sys.argv[2])
asyncio.run(fetch(url, directory=directory, cache=directory / "cache"))
"""


@pytest.mark.parametrize("changed", [None, "Wed, 01 Jan 2025 00:00:00 GMT"])
async def test_a_download_that_breaks_off_is_taken_up_where_it_was(
    tmp_path: Path, server: Server, changed: str | None
) -> None:
    etag = None if changed else '"one"'
    url = server.put("disk", DISK, etag=etag, changed=changed, cuts=[100_000, 7, 150_000])
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.statuses == [200, 206, 206, 206]
    assert [one.get("Range") for one in server.requests] == [
        *(None, "bytes=100000-", "bytes=100007-", "bytes=250007-")
    ]


async def test_a_later_session_takes_up_what_an_earlier_one_left(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK, cuts=[200_000, 0, 0, 0, 0])
    with pytest.raises(LabError, match="cannot be downloaded: the server sent 200,000 of"):
        await _fetch(url, tmp_path)
    assert _kept(tmp_path) == ["part", "part.json"]
    server.files["/disk"].cuts.clear()
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.requests[-1]["Range"] == "bytes=200000-"


async def test_a_download_whose_check_was_broken_off_is_not_fetched_again(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK, cuts=[200_000, 0, 0, 0, 0])
    with pytest.raises(LabError):
        await _fetch(url, tmp_path)
    [part] = (tmp_path / "cache" / "images").glob("*/part")
    part.write_bytes(DISK)
    server.requests.clear()
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.requests == []


@pytest.mark.parametrize("name", ["", "part", "part.json", "image.json", "lock", "%2e%2e", ".x"])
async def test_an_image_may_have_any_name(tmp_path: Path, server: Server, name: str) -> None:
    image = await _fetch(server.put(name, DISK, cuts=[100_000]), tmp_path)
    assert image.path.read_bytes() == DISK
    assert image.path.parent.parent == tmp_path / "cache" / "images"
    assert (await _fetch(f"{server.url}/{name}", tmp_path)) == image


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
async def test_without_a_name_for_the_files_state_a_download_begins_anew(
    tmp_path: Path, server: Server, etag: str | None
) -> None:
    url = server.put("disk", DISK, etag=etag, cuts=[100_000])
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.statuses == [200, 200]


async def test_a_file_that_changed_in_between_is_taken_whole(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK, cuts=[100_000, 0, 0, 0, 0])
    with pytest.raises(LabError):
        await _fetch(url, tmp_path)
    server.put("disk", OTHER, etag='"two"')
    assert (await _fetch(url, tmp_path)).path.read_bytes() == OTHER


async def test_a_file_that_became_shorter_is_taken_whole(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", DISK + bytes(1 << 20), cuts=[len(DISK) + 10, 0, 0, 0, 0])
    with pytest.raises(LabError):
        await _fetch(url, tmp_path)
    server.put("disk", DISK)  # under the same ETag, so the range that is asked for is not there
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.statuses[-2:] == [416, 200]


async def test_a_server_without_ranges_and_lengths_will_do(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", DISK, ranges=False, cuts=[100_000])
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    bare = server.put("bare", DISK, length=-1)
    assert (await _fetch(bare, tmp_path)).sha256 == SUM


async def test_a_server_that_promises_more_than_it_sends_is_named(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK, etag=None, length=len(DISK) + 1)
    reason = f"the server sent {len(DISK):,} of {len(DISK) + 1:,} bytes"
    with pytest.raises(LabError, match=reason):
        await asyncio.wait_for(_fetch(url, tmp_path), 30)


async def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, server: Server) -> None:
    said: list[str] = []
    url = server.put("disk", DISK, statuses=[503, 429])
    assert (await _fetch(url, tmp_path, said)).sha256 == SUM
    assert any("503 Service Unavailable; trying again" in line for line in said)


async def test_a_redirect_is_followed(tmp_path: Path, server: Server) -> None:
    target = server.put("disk", DISK)
    url = server.put("latest", b"", statuses=[302], location=target)
    assert (await _fetch(url, tmp_path)).sha256 == SUM


async def test_an_image_that_is_not_there_is_not_asked_for_twice(
    tmp_path: Path, server: Server
) -> None:
    with pytest.raises(LabError, match="the server answers 404 Not Found") as caught:
        await _fetch(f"{server.url}/disk?token=secret", tmp_path)
    assert server.statuses == [404]
    assert "secret" not in str(caught.value)


async def test_a_sum_that_differs_is_an_error_and_the_file_is_not_kept(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK)
    with pytest.raises(LabError, match="has not the SHA-256") as caught:
        await _fetch(f"{url}#sha256={WRONG}", tmp_path)
    assert {WRONG, SUM} <= set(str(caught.value).split())
    assert _kept(tmp_path) == []


async def test_another_sum_than_that_of_the_kept_file_has_it_fetched_anew(
    tmp_path: Path, server: Server
) -> None:
    url = server.put("disk", DISK)
    await _fetch(url, tmp_path)
    server.put("disk", OTHER)
    other = hashlib.sha256(OTHER).hexdigest()
    assert (await _fetch(f"{url}#sha256={other}", tmp_path)).sha256 == other


async def test_a_page_in_the_place_of_an_image_is_not_kept(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", b"<html>Please log in</html>")
    with pytest.raises(LabError, match="cannot be used: it is a web page"):
        await _fetch(url, tmp_path)
    assert _kept(tmp_path) == []


async def test_a_kept_file_that_was_touched_is_fetched_anew(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", DISK)
    image = await _fetch(url, tmp_path)
    image.path.write_bytes(DISK[:-1000])
    assert (await _fetch(url, tmp_path)).path.read_bytes() == DISK


async def test_user_and_password_are_sent_and_not_shown(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", DISK, cuts=[9, 0, 0, 0, 0])
    url = url.replace("http://", "http://me:pa%20ss@")
    with pytest.raises(LabError):
        await _fetch(url, tmp_path)
    files = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.json")]
    await _fetch(url, tmp_path)
    files += [path.read_bytes() for path in (tmp_path / "cache").rglob("*.json")]
    assert not any(b"pa%20ss" in content for content in files)
    assert server.requests[0]["Authorization"] == "Basic bWU6cGEgc3M="
    server.files.clear()
    with pytest.raises(LabError) as caught:
        await _fetch(f"{url}2", tmp_path)
    assert "pa" not in caught.value.brief.split("127.0.0.1")[0].replace("image", "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_a_server_must_prove_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "certificate"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    make += [
        "-nodes",
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        "-",
    ]
    made = subprocess.run(make, check=True, capture_output=True, timeout=20)
    certificate.write_bytes(made.stdout)
    with serving(certificate) as server:
        url = server.put("disk", DISK, cuts=[100_000])
        with pytest.raises(LabError, match="the server's certificate is not to be trusted"):
            await _fetch(url, tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await _fetch(url, tmp_path)).sha256 == SUM
        assert server.statuses == [200, 206]


async def test_nobody_who_listens_is_named(tmp_path: Path, server: Server) -> None:
    with serving() as gone:
        url = gone.url
    begun = time.monotonic()
    with pytest.raises(LabError, match="no server listens there"):
        await _fetch(f"{url}/disk", tmp_path)
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize("url", ["http:///disk", "http://[::1/disk", "https://local host/disk"])
async def test_what_is_no_address_is_called_so(tmp_path: Path, url: str) -> None:
    with pytest.raises(LabError, match=r"is no address|cannot be downloaded"):
        await _fetch(url, tmp_path)


async def test_a_full_disk_is_named(tmp_path: Path, server: Server) -> None:
    url = server.put("disk", DISK, etag=None)
    place = tmp_path / "cache" / "images" / hashlib.sha256(url.encode()).hexdigest()[:16]
    place.mkdir(parents=True)
    if not _mounted(place):
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(LabError, match=r"does not fit|No space left") as caught:
            await _fetch(url, tmp_path)
        assert "XDG_CACHE_HOME" in str(caught.value)
        server.put("disk", DISK, etag=None, length=-1)  # so that it is not known before
        with pytest.raises(LabError, match="No space left"):
            await _fetch(url, tmp_path)
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=10)


def _mounted(place: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    return subprocess.run(mount, check=False, timeout=10, capture_output=True).returncode == 0


async def test_who_gives_up_ends_the_download_at_once_and_its_part_is_kept(
    tmp_path: Path, server: Server
) -> None:
    release = threading.Event()
    url = server.put("disk", DISK, stall=release)
    task = asyncio.create_task(_fetch(url, tmp_path))
    part = None
    while part is None or not part.stat().st_size:
        await asyncio.sleep(0.01)
        part = next((tmp_path / "cache" / "images").glob("*/part"), None)
    begun = time.monotonic()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    while any(each.name == "benchscale-image" for each in threading.enumerate()):
        assert time.monotonic() - begun < 2
        await asyncio.sleep(0.01)
    release.set()
    server.files["/disk"].stall = None
    assert (await _fetch(url, tmp_path)).sha256 == SUM
    assert server.statuses == [200, 206]
