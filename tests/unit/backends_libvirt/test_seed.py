"""The seed, read back by the library and, where it is installed, by another program."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pycdlib
import pytest

from pytest_benchscale.backends.libvirt.seed import seed_image

FILES = {
    "user-data": b"#cloud-config\n" + b"x: y\n" * 5000,
    "meta-data": b"instance-id: i\n",
    "network-config": b"version: 2\n",
}


def _read(image: bytes, **path: str) -> bytes:
    disk = pycdlib.PyCdlib()
    disk.open_fp(io.BytesIO(image))
    content = io.BytesIO()
    disk.get_file_from_iso_fp(content, **path)
    disk.close()
    return content.getvalue()


@pytest.mark.parametrize("kind", ["rr_path", "joliet_path"])
def test_the_files_are_there_under_exactly_their_names(kind: str) -> None:
    image = seed_image(FILES)
    assert {name: _read(image, **{kind: f"/{name}"}) for name in FILES} == FILES


def test_the_label_is_the_one_that_cloud_init_looks_for() -> None:
    image = seed_image(FILES)
    assert image[32768 + 40 : 32768 + 72].rstrip() == b"cidata"


def test_equal_files_make_equal_images_whenever(monkeypatch: pytest.MonkeyPatch) -> None:
    image = seed_image(FILES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert seed_image(dict(FILES)) == image
    assert seed_image({**FILES, "meta-data": b"instance-id: j\n"}) != image


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
def test_the_system_recognises_it(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.write_bytes(seed_image(FILES))
    probe = ["blkid", "-p", "-o", "export", str(path)]
    told = subprocess.run(probe, check=True, capture_output=True, text=True, timeout=10).stdout
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(told.splitlines())
