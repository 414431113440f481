"""The disk of a guest for virtual machines, made from a root file system of Debian packages and cached.

It has a partition and a boot loader, as the cloud images of distributions have, and starts cloud-init.
Beside it lie its kernel and initramfs, for machines that are started with these.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemons.images import root_hash
from tests.daemons.packages import search_path
from tests.daemons.roots import BuildError, cache_directory, tarball

__all__ = ["GuestDisk", "boot_reference", "cached_guest", "guest", "guest_path", "one_machine"]

_SECTOR = 512
_FIRST_SECTOR = 2048  # of the partition: before it is room for the boot loader
_MIB = 1 << 20
_DISK_MIB = 1536
_LINUX = 0x83  # the type of the partition
_COMMAND_LINE = (
    "root=/dev/vda1 rw console=ttyS0 quiet mitigations=off random.trust_cpu=on cryptomgr.notests"
)
_LOADER = f"""
set root=(hd0,msdos1)
linux /vmlinuz {_COMMAND_LINE}
initrd /initrd.img
boot
"""
_LOADER_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "boot", "normal", "minicmd")
_MODULES = Path("/usr/lib/grub/i386-pc")


@dataclass(frozen=True)
class GuestDisk:
    """A guest's disk, and what it would boot from it; `command_line` is the kernel's."""

    disk: Path
    kernel: Path
    initramfs: Path
    command_line: str = _COMMAND_LINE


def cached_guest() -> GuestDisk | None:
    """Return the guest if it was made before."""
    made = _where()
    return made if made.disk.exists() else None


def guest_path() -> Path:
    """Return where the guest's disk is, once it was made."""
    return _where().disk


def boot_reference() -> str:
    """Return the guest's disk as an image that is started without its boot loader, which takes seconds."""
    made = _where()
    return f"{made.disk}#kernel={made.kernel}&initrd={made.initramfs}&append={made.command_line}"


def one_machine() -> str:
    """Return a topology of one guest; the tests that use it share what is kept of its first boot."""
    return (
        f"network: {{name: lan}}\n"
        f"nodes: [{{name: machine, image: '{boot_reference()}', memory_mb: 512}}]\n"
    )


def guest() -> GuestDisk:
    """Return the guest; it is made when it is not in the cache.

    Raises:
        BuildError: it cannot be made on this machine.
    """
    made = _where()
    if made.disk.exists():
        return made
    if os.geteuid() != 0:
        raise BuildError("only root can make a guest's disk: its files belong to several users")
    root = tarball("guest")
    directory = made.disk.parent
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=directory) as name:
        unfinished = Path(name)
        tree = unfinished / "tree"
        tree.mkdir()
        with tarfile.open(root) as archive:
            archive.extractall(tree, filter="fully_trusted")
        for link, target in (("vmlinuz", made.kernel), ("initrd.img", made.initramfs)):
            shutil.copyfile((tree / "boot" / (tree / link).readlink().name), unfinished / link)
            (unfinished / link).replace(target)
        _make_disk(tree, unfinished)
        (unfinished / "disk.qcow2").replace(made.disk)
    return made


def _where() -> GuestDisk:
    recipe = (root_hash("guest"), _LOADER, _DISK_MIB, _FIRST_SECTOR)
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    base = cache_directory() / "guests" / f"guest-{digest}"
    return GuestDisk(
        Path(f"{base}.qcow2"), Path(f"{base}.vmlinuz"), Path(f"{base}.initrd"), _COMMAND_LINE
    )


def _make_disk(tree: Path, directory: Path) -> None:
    raw = directory / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(_DISK_MIB * _MIB)
    size = _DISK_MIB * 1024 - _FIRST_SECTOR * _SECTOR // 1024
    _call(
        *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", f"offset={_FIRST_SECTOR * _SECTOR}"),
        *("-d", str(tree), str(raw), f"{size}k"),
    )
    loader, core = directory / "loader.cfg", directory / "core.img"
    loader.write_text(_LOADER)
    _call(
        *("grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", "(hd0,msdos1)/boot/grub"),
        *("-c", str(loader), *_LOADER_MODULES),
    )
    boot, image = (_MODULES / "boot.img").read_bytes(), core.read_bytes()
    if len(image) > (_FIRST_SECTOR - 1) * _SECTOR:
        raise BuildError("the boot loader does not fit before the partition")
    with raw.open("r+b") as file:
        file.write(boot[:440] + bytes(6) + _partition_table())
        file.write(image)
    _call("qemu-img", "convert", "-O", "qcow2", str(raw), str(directory / "disk.qcow2"))


def _partition_table() -> bytes:
    """Return one partition up to the end, and the mark of a boot sector; places by LBA alone."""
    sectors = _DISK_MIB * _MIB // _SECTOR - _FIRST_SECTOR
    nowhere = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, nowhere, _LINUX, nowhere, _FIRST_SECTOR, sectors)
    return entry + bytes(3 * len(entry)) + b"\x55\xaa"


def _call(*command: str) -> None:
    _run(command)


def _run(command: Sequence[str]) -> None:
    program = shutil.which(command[0], path=search_path())
    if program is None:
        raise BuildError(f"{command[0]} is not installed")
    result = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"{command[0]} failed: " + "\n".join(result.stderr.splitlines()[-6:]))
