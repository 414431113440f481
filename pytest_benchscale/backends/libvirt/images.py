"""Disk images of guests: found or downloaded, then looked at.

An image is named by a path or by an http(s) URL. Behind either may stand `#sha256=HEX`, the sum that the file
must have. What was downloaded is kept, and taken again without asking the server: delete it there, or
name another sum, to have it fetched anew.
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.libvirt import download, formats
from pytest_benchscale.backends.libvirt.formats import Format
from pytest_benchscale.backends.libvirt.sums import SUM, sum_of
from pytest_benchscale.backends.libvirt.web import shown
from pytest_benchscale.backends.sharing import Failed, Shared, once
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.checks import did_you_mean

__all__ = ["Image", "cache_directory", "check_size", "fetch"]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Image:
    """A disk image that is there: sizes in bytes, `sha256` of the whole file in hex."""

    path: Path
    format: Format
    virtual_size: int
    sha256: str
    size: int


def cache_directory() -> Path:
    """Return where downloaded images are kept for all sessions of this user."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".cache"  # the rule of XDG
    return base / "pytest-benchscale"


async def fetch(
    reference: str, *, directory: Path, cache: Path, progress: Progress | None = None
) -> Image:
    """Return the image that a reference names, downloaded when needed, and checked.

    `reference` is a path, relative to `directory`, or an http(s) URL; behind either may stand
    `#sha256=HEX`, which the file must have.

    Raises:
        LabError: it cannot be had, or it is no usable image; says why and what to do.
    """
    place, wanted = _parted(reference)
    scheme = place.partition("://")[0].lower() if "://" in place else ""
    if scheme in {"http", "https"}:
        _check_url(place)
        work = functools.partial(_downloaded, place, wanted, cache)
    elif scheme:
        raise _failed(
            f"{shown(place)!r}: images are not fetched by {scheme}",
            "name a path, or a URL that begins with https:// or http://",
        )
    else:
        work = functools.partial(_found, _path(place, directory), wanted, cache)
    key = ("image", place, wanted, str(directory), str(cache))
    return _image(await once(key, work, progress))


def check_size(image: Image, disk_gb: float | None, *, node: str) -> int:
    """Return the size in bytes of a guest's disk: what is declared, else the image's own.

    Raises:
        LabError: the image does not fit in the declared size.
    """
    if disk_gb is None:
        return image.virtual_size
    size = round(disk_gb * _GIB / 512) * 512
    if size < image.virtual_size:
        least = -(-image.virtual_size * 10 // _GIB) / 10
        raise LabError(
            f"node {node!r}: its image {image.path.name} is a disk of {least:g} GiB, and `disk_gb` is "
            f"{disk_gb:g}",
            node=node,
            step="image",
            details=f"the image: {image.virtual_size:,} bytes; `disk_gb: {disk_gb:g}`: {size:,} bytes",
            resolution=f"set `disk_gb` to {least:g} or more: a disk can grow, not shrink",
        )
    return size


# --- what a reference means ---


def _parted(reference: str) -> tuple[str, str | None]:
    """Return the place, and the sum that it must have."""
    place, mark, fragment = reference.rpartition("#")
    if not mark or ("://" not in place and "=" not in fragment):
        return reference, None
    kind, _, digest = fragment.partition("=")
    if kind.lower() == "sha256" and SUM.fullmatch(digest.lower()):
        return place, digest.lower()
    if "://" not in place and kind.lower() != "sha256":
        return reference, None  # a # in a file's name
    raise _failed(
        f"the image {shown(place)!r} has the sum {fragment!r}, which is no SHA-256",
        "write #sha256= and 64 hexadecimal digits behind the image, as `sha256sum IMAGE` prints them",
    )


def _check_url(url: str) -> None:
    try:
        is_whole = bool(urlsplit(url).hostname)
        reason = "it names no machine"
    except ValueError as error:
        is_whole, reason = False, str(error)
    if not is_whole:
        raise _failed(
            f"the image {shown(url)!r} is no address: {reason}", "write https://HOST/PATH"
        )


def _path(place: str, directory: Path) -> Path:
    with suppress(RuntimeError):  # ~somebody, and there is nobody of that name
        return directory / Path(place).expanduser()
    return directory / place


def _failed(brief: str, resolution: str, details: str | None = None) -> LabError:
    return LabError(brief, step="image", details=details, resolution=resolution)


# --- in a thread ---


def _downloaded(url: str, wanted: str | None, cache: Path, shared: Shared) -> str:
    name = f"the image {shown(url)!r}"
    try:
        path, digest = download.fetch(url, wanted, cache / "images", shared, formats.inspect)
    except formats.BadImage as bad:
        raise _unusable(name, bad) from bad
    return _checked(path, digest, f"{name}, kept as {path},")


def _found(path: Path, wanted: str | None, cache: Path, shared: Shared) -> str:
    name = f"the image {str(path)!r}"
    try:
        digest = sum_of(path, cache / "sums", shared.check) if path.is_file() else ""
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if wanted is not None and digest and digest != wanted:
        raise Failed(
            lambda: _failed(
                f"{name} has not the SHA-256 that is asked for",
                "name the right file, or correct the sum behind `#sha256=`",
                f"asked for: {wanted}\nthe file:  {digest}",
            )
        )
    return _checked(path, digest, name)


def _checked(path: Path, digest: str, name: str) -> str:
    """Return what an image is, as text."""
    try:
        kind, virtual_size = formats.inspect(path)
        size = path.stat().st_size
    except formats.BadImage as bad:
        raise _unusable(name, bad) from bad
    except OSError as error:
        raise _unreadable(path, name, error) from error
    return json.dumps([str(path), kind, virtual_size, digest, size])


def _unusable(name: str, bad: formats.BadImage) -> Failed:
    reason, resolution = bad.reason, bad.resolution
    return Failed(lambda: _failed(f"{name} cannot be used: {reason}", resolution))


def _image(text: str) -> Image:
    path, kind, virtual_size, digest, size = json.loads(text)
    return Image(Path(path), kind, virtual_size, digest, size)


def _unreadable(path: Path, name: str, error: OSError) -> Failed:
    if not isinstance(error, FileNotFoundError):
        reason = error.strerror or str(error)
        return Failed(
            lambda: _failed(f"{name} cannot be read: {reason}", "make it readable for this user")
        )
    near: list[str] = []
    with suppress(OSError):
        near = [each.name for each in path.parent.iterdir() if each.is_file()]
    hint = did_you_mean(path.name, near)
    if not path.parent.is_dir():
        hint = f"; there is no directory {path.parent}"
    return Failed(
        lambda: _failed(
            f"{name} is not there{hint}",
            "correct the path, which is relative to the topology file, or name another image with "
            "--benchscale-image NAME=REF",
        )
    )
