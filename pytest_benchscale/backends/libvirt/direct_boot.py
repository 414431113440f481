"""Guests that are started with a kernel of their own, without a boot loader.

An image is followed by what it is started with: `IMAGE#kernel=PATH`, then `&initrd=PATH` and
`&append=WORDS`, the kernel's command line, which is the rest. Paths are of this machine.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.libvirt.images import Image
from pytest_benchscale.backends.libvirt.storage import Storage
from pytest_benchscale.errors import LabError

__all__ = ["DirectBoot", "Kernel", "contents", "provide", "split"]

_KERNEL = re.compile(
    r"(?P<image>.+?)#kernel=(?P<kernel>[^&]+)(&initrd=(?P<initrd>[^&]+))?(&append=(?P<append>.+))?"
)
_USUAL = "root=/dev/vda1 console=ttyS0"
_NAME = "image"


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """What a reference says: paths as they are written there."""

    kernel: str
    initramfs: str | None
    command_line: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """The same on the daemon's machine."""

    kernel: str
    initramfs: str | None
    command_line: str


def split(reference: str) -> tuple[str, DirectBoot | None]:
    """Return the image itself, and what it is started with, if that is said.

    Raises:
        LabError: it is said in a way that nobody understands.
    """
    if "#kernel=" not in reference:
        return reference, None
    match = _KERNEL.fullmatch(reference)
    if match is None:
        raise LabError(
            f"the image {reference!r} does not say what it is started with",
            step=_NAME,
            resolution="write IMAGE#kernel=PATH&initrd=PATH&append=WORDS, the last two where needed",
        )
    append = match["append"] or _USUAL
    return match["image"], DirectBoot(match["kernel"], match["initrd"], append)


async def provide(
    boot: DirectBoot, storage: Storage, directory: Path, locks: Path, progress: Progress | None
) -> Kernel:
    """Bring what a guest is started with to the daemon's machine.

    Raises:
        LabError: a file cannot be read, or not be brought there.
    """

    async def bring(name: str) -> str:
        image = await to_thread.run_sync(_look_at, directory, name)
        return (await storage.base(image, locks, progress)).path

    kernel = await bring(boot.kernel)
    initramfs = await bring(boot.initramfs) if boot.initramfs else None
    return Kernel(kernel, initramfs, boot.command_line)


async def contents(boot: DirectBoot, directory: Path) -> list[str]:
    """Return the sums of what a guest is started with, and the words for its kernel.

    Raises:
        LabError: a file cannot be read.
    """
    names = [name for name in (boot.kernel, boot.initramfs) if name]
    images = [await to_thread.run_sync(_look_at, directory, name) for name in names]
    return [*(image.sha256 for image in images), boot.command_line]


def _look_at(directory: Path, name: str) -> Image:
    path = directory / Path(name).expanduser()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise LabError(
            f"the kernel or initramfs {path} cannot be read: {error.strerror or error}",
            step=_NAME,
            resolution="correct its path behind the image; it is relative to the topology file's directory",
        ) from error
    return Image(path, "raw", size, digest, size)
