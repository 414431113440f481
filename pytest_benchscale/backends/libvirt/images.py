"""Disk images of guests: found or downloaded, then looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_benchscale.backends.base import Progress

__all__ = ["Image", "cache_directory", "check_size", "fetch", "inspect"]


@dataclass(frozen=True, slots=True)
class Image:
    """A disk image that is there: sizes in bytes, `sha256` of the whole file in hex."""

    path: Path
    format: Literal["qcow2", "raw"]
    virtual_size: int
    sha256: str
    size: int


def cache_directory() -> Path:
    """Return where downloaded images are kept for all sessions of this user."""
    raise NotImplementedError


async def fetch(
    reference: str, *, directory: Path, cache: Path, progress: Progress | None = None
) -> Image:
    """Return the image that a reference names, downloaded when needed, and checked.

    `reference` is a path, relative to `directory`, or an http(s) URL; behind either may stand
    `#sha256=HEX`, which the file must have.

    Raises:
        LabError: it cannot be had, or it is no usable image; says why and what to do.
    """
    raise NotImplementedError


def inspect(path: Path) -> tuple[Literal["qcow2", "raw"], int]:
    """Return the format and the virtual size in bytes of an image file, told by its header.

    Raises:
        LabError: it is no image that a guest can be made from.
    """
    raise NotImplementedError


def check_size(image: Image, disk_gb: float | None, *, node: str) -> int:
    """Return the size in bytes of a guest's disk: what is declared, else the image's own.

    Raises:
        LabError: the image does not fit in the declared size.
    """
    raise NotImplementedError
