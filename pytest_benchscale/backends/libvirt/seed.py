"""The seed of a guest: a small disk on which cloud-init finds its configuration (data source NoCloud)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import pycdlib
from pycdlib.dates import DirectoryRecordDate, VolumeDescriptorDate

__all__ = ["LABEL", "seed_image"]

LABEL = "cidata"
"""What cloud-init looks for: the volume's label."""

_MODE = 0o100400  # a regular file; whoever mounts the seed reads the passwords in it, so root alone
_LEVEL_ANY_NAME = 4  # ISO 9660:1999, which takes the label in small letters
_JOLIET = 3
_ROCK_RIDGE = "1.09"
_SECTOR, _SYSTEM_SECTORS = 2048, 16
_WHEN = 315532800.0  # 1980-01-01: the clock has no part in it


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image with these files; equal files make equal images.

    The names are kept as they are, by Rock Ridge (Linux) and by Joliet (everybody else).
    """
    disk = pycdlib.PyCdlib()
    disk.new(
        interchange_level=_LEVEL_ANY_NAME,
        vol_ident=LABEL,
        joliet=_JOLIET,
        rock_ridge=_ROCK_RIDGE,
    )
    try:
        for name, content in files.items():
            disk.add_fp(
                io.BytesIO(content),
                len(content),
                f"/{name}",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=_MODE,
            )
        _forget_the_time(disk)
        image = io.BytesIO()
        disk.write_fp(image)
        volumes = 1 + len(disk.svds)
    finally:
        disk.close()
    return _without_writing_time(bytearray(image.getvalue()), volumes)


def _forget_the_time(disk: Any) -> None:
    """Set every time in an image to the same one, but for what is set when it is written."""
    moment = VolumeDescriptorDate()
    moment.new(_WHEN)
    day = DirectoryRecordDate()
    day.new(_WHEN)
    for volume in (disk.pvd, *disk.svds):
        volume.volume_creation_date = volume.volume_effective_date = moment
    for record in _records(disk):
        record.date = day
        if record.rock_ridge is not None:
            entries = (record.rock_ridge.dr_entries, record.rock_ridge.ce_entries)
            for part in filter(None, entries):
                if part.tf_record is not None:
                    _date(part.tf_record, day)


def _without_writing_time(image: bytearray, volumes: int) -> bytes:
    """Put the time of creation in the place of that of modification (ECMA-119, 8.4.26 and 8.4.27)."""
    for number in range(volumes):
        start = (_SYSTEM_SECTORS + number) * _SECTOR
        image[start + 830 : start + 847] = image[start + 813 : start + 830]
    return bytes(image)


def _records(disk: Any) -> Iterator[Any]:
    for volume in (disk.pvd, *disk.svds):
        root = volume.root_directory_record()
        yield root
        yield from root.children


def _date(times: Any, day: DirectoryRecordDate) -> None:
    """Set what there is of the times of a Rock Ridge entry (field TF)."""
    for name in ("creation", "access", "modification", "attribute_change"):
        if getattr(times, f"{name}_time", None) is not None:
            setattr(times, f"{name}_time", day)
