"""What a disk image is, told by its header; checked against qemu-img where that is installed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from pytest_benchscale.backends.libvirt.formats import BadImage, inspect
from tests.unit.backends_libvirt import disks

GIB = 1 << 30


def _written(directory: Path, content: bytes) -> Path:
    path = directory / "image"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_qcow2_image_tells_its_virtual_size(tmp_path: Path, version: int) -> None:
    image = disks.qcow2(virtual_size=5 * GIB, version=version)
    assert inspect(_written(tmp_path, image)) == ("qcow2", 5 * GIB)


@pytest.mark.parametrize("image", [disks.raw(), disks.gpt(), disks.ext4()])
def test_a_raw_image_has_the_size_of_its_file(tmp_path: Path, image: bytes) -> None:
    assert inspect(_written(tmp_path, image)) == ("raw", 1 << 20)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "compat=0.10"], ["-o", "extended_l2=on"]])
def test_what_qemu_writes_is_taken_and_its_first_half_is_not(
    tmp_path: Path, options: list[str]
) -> None:
    source = _written(tmp_path, disks.raw(size=4 << 20)[: 1 << 20] + os.urandom(3 << 20))
    image = tmp_path / "image.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options]
    subprocess.run([*convert, source, image], check=True, timeout=30)
    assert inspect(image) == ("qcow2", 4 << 20)
    os.truncate(image, image.stat().st_size // 2)
    with pytest.raises(BadImage, match="it is not complete"):
        inspect(image)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_an_overlay_of_qemu_is_refused(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, base, "1G"], check=True, timeout=30)
    subprocess.run([*create, "-b", base, "-F", "qcow2", overlay], check=True, timeout=30)
    with pytest.raises(BadImage, match="backing file") as caught:
        inspect(overlay)
    assert "qemu-img convert" in caught.value.resolution


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backing": 112}, "backing file"),
        ({"encryption": 1}, "encrypted"),
        ({"features": 2}, "marked as corrupt"),
        ({"features": 4}, "its data is in another file"),
        ({"features": 1 << 20}, "features that are not known: 0x100000"),
        ({"version": 1}, "version 1, and 2 and 3 are known"),
        ({"virtual_size": 0}, "damaged"),
    ],
)
def test_a_qcow2_image_that_does_not_stand_on_its_own_is_refused(
    tmp_path: Path, changes: dict[str, int], reason: str
) -> None:
    with pytest.raises(BadImage, match=reason):
        inspect(_written(tmp_path, disks.qcow2(**changes)))  # type: ignore[arg-type]  # all are numbers


@pytest.mark.parametrize("clusters", [0.0005, 0.5, 1, 2, 3, 4, 4.5, 5])
def test_a_qcow2_image_that_was_cut_off_is_refused(tmp_path: Path, clusters: float) -> None:
    image = disks.qcow2()[: int(clusters * disks.CLUSTER)]
    with pytest.raises(BadImage, match="it is not complete"):
        inspect(_written(tmp_path, image))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            disks.raw(partition_end=2 << 20),
            "partitions end at 2,097,152 bytes, and it has 1,048,576",
        ),
        (disks.gpt(backup=5000), "partitions end at 2,560,512 bytes"),
        (disks.raw()[:-100], "no whole number of sectors"),
        (disks.ext4()[:-1], "no whole number of sectors"),
    ],
)
def test_a_raw_image_that_was_cut_off_is_refused(tmp_path: Path, image: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=f"it is not complete: .*{reason}"):
        inspect(_written(tmp_path, image))


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk.raw"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("disk.raw", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason", "resolution"),
    [
        (b"", "it is empty", "again"),
        (b"KDMV" + bytes(600), "VMDK", "qemu-img convert -f vmdk"),
        (bytes(64) + struct.pack("<I", 0xBEDA107F) + bytes(600), "VDI", "-f vdi"),
        (b"vhdxfile" + bytes(600), "VHDX", "-f vhdx"),
        (gzip.compress(b"x"), "compressed with gzip", "unpack it first"),
        (lzma.compress(b"x"), "compressed with xz", "unpack it first"),
        (bz2.compress(b"x"), "compressed with bzip2", "unpack it first"),
        (_zip(), "a zip archive", "unpack it first"),
        (_tar(), "a tar archive", "unpack it first"),
        (bytes(0x8001) + b"CD001" + bytes(99), "an ISO image", "cloud image"),
        (b"\n<!DOCTYPE HTML><title>Not here</title>", "a web page", "browser"),
        (b"hello world\n" * 100, "neither a qcow2 image nor a raw one", "name a disk image"),
        (bytes(4096), "neither a qcow2 image nor a raw one", "name a disk image"),
    ],
    ids=[
        "empty",
        "vmdk",
        "vdi",
        "vhdx",
        "gzip",
        "xz",
        "bzip2",
        "zip",
        "tar",
        "iso",
        "page",
        "text",
        "zeros",
    ],
)
def test_what_is_no_disk_image_is_called_by_its_name(
    tmp_path: Path, content: bytes, reason: str, resolution: str
) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        inspect(_written(tmp_path, content))
    assert resolution in caught.value.resolution


def test_what_is_no_file_is_refused_without_being_read(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="a directory"):
        inspect(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadImage, match="not a regular file"):
        inspect(tmp_path / "pipe")
