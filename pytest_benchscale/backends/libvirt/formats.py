"""What a disk image is, told by its first bytes: without qemu, so that it is known before a guest is made.

qcow2 is described in QEMU's docs/interop/qcow2.txt; the names here are those used there.
"""

from __future__ import annotations

import stat
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

__all__ = ["BadImage", "Format", "inspect"]

Format = Literal["qcow2", "raw"]

_QCOW = b"QFI\xfb"
_QCOW_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_INCOMPATIBLE = struct.Struct(">Q")  # follows, from version 3 on
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 2, 4, 16
_KNOWN_FEATURES = 0b11111
_OFFSET = 0x00FFFFFFFFFFFE00  # bits 9-55 of an entry of an L1 or L2 table
_COMPRESSED = 1 << 62
_LARGEST_L1 = 32 << 20  # bytes; QEMU's own limit
_MOST_L2 = 1024  # tables that are looked into: those of a disk of 512 GiB
_SECTOR = 512
_HEAD = 0x10080  # bytes that tell what a file is

# Offset and first bytes of what people take for a disk image, and what it is.
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"KDMV", "a VMDK image (VMware)", "vmdk"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMDK image (VMware)", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image (VirtualBox)", "vdi"),
    (0, b"vhdxfile", "a VHDX image (Hyper-V)", "vhdx"),
    (0, b"conectix", "a VHD image (Hyper-V, Azure)", "vpc"),
    (0, b"QED\0", "a QED image", "qed"),
    (0, b"\x1f\x8b", "compressed with gzip", "gunzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unxz"),
    (0, b"BZh", "compressed with bzip2", "bunzip2"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (0, b"PK\x03\x04", "a zip archive", "unzip"),
    (257, b"ustar", "a tar archive", "tar -x"),
    (0x8001, b"CD001", "an ISO image, a CD to install from", ""),
    (0, b"\x7fELF", "a program or a kernel", ""),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)", ""),
)
_CONVERTERS = ("vmdk", "vdi", "vhdx", "vpc", "qed")
_FILE_SYSTEMS: tuple[tuple[int, bytes], ...] = (
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),  # btrfs
)
_PARTITIONED = b"\x55\xaa"  # at 510
_GPT = b"EFI PART"  # in the second sector
_ENTIRE_DISK = 0xEE  # type of a partition that stands for a GPT


class BadImage(Exception):
    """A file is no image that a guest can be made from: what is wrong, and what to do about it."""

    def __init__(self, reason: str, resolution: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.resolution = resolution


def inspect(path: Path) -> tuple[Format, int]:
    """Return the format and the virtual size in bytes of an image file.

    Raises:
        BadImage: it is none, or not complete, or not on its own.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise BadImage(f"it is {kind}", "name the file of a disk image")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head.startswith(_QCOW):
            return "qcow2", _inspect_qcow(file, head, status.st_size)
        _refuse_others(head)
        return "raw", _inspect_raw(head, status.st_size)


def _refuse_others(head: bytes) -> None:
    if not head:
        raise BadImage("it is empty", "have it made or downloaded again")
    for offset, magic, what, tool in _OTHERS:
        if head.startswith(magic, offset):
            raise BadImage(f"it is {what}, not a qcow2 or raw disk image", _way_on(tool))
    text = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise BadImage(
            "it is a web page, not a disk image",
            "open the address in a browser: it may be a page with the image's link on it",
        )


def _way_on(tool: str) -> str:
    if tool in _CONVERTERS:
        return f"convert it: qemu-img convert -f {tool} -O qcow2 IMAGE IMAGE.qcow2"
    if tool:
        return f"unpack it first ({tool}), and name the disk image that is in it"
    return "name the disk image of an installed system, such as a distribution's cloud image"


# --- raw ---


def _inspect_raw(head: bytes, size: int) -> int:
    is_partitioned = head.startswith(_PARTITIONED, 510)
    has_files = any(head.startswith(magic, offset) for offset, magic in _FILE_SYSTEMS)
    if not is_partitioned and not has_files:
        raise BadImage(
            "it is neither a qcow2 image nor a raw one: it has no partitions and no file system",
            "name a disk image in the format qcow2 or raw; `file IMAGE` tells what it is",
        )
    if size % _SECTOR:
        raise _truncated(f"its {size:,} bytes are no whole number of sectors")
    if is_partitioned and not has_files:
        end = max(_partition_ends(head), default=0)
        if end > size:
            raise _truncated(f"its partitions end at {end:,} bytes, and it has {size:,}")
    return size


def _partition_ends(head: bytes) -> Iterator[int]:
    """Yield where each partition ends, in bytes; nothing where there is a file system's boot sector."""
    if head.startswith(_GPT, _SECTOR) and len(head) >= 2 * _SECTOR:
        (backup,) = struct.unpack_from("<Q", head, _SECTOR + 32)  # the table's second copy
        yield (backup + 1) * _SECTOR
        return
    entries = [struct.unpack_from("<B3xB3xII", head, 446 + 16 * n) for n in range(4)]
    if any(active not in {0, 0x80} for active, *_ in entries):
        return
    for _, kind, start, sectors in entries:
        if kind and kind != _ENTIRE_DISK:
            yield (start + sectors) * _SECTOR


# --- qcow2 ---


def _inspect_qcow(file: BinaryIO, head: bytes, size: int) -> int:
    if len(head) < _QCOW_HEADER.size:
        raise _truncated("it ends within its header")
    (_, version, backing, _, cluster_bits, virtual_size, encryption, *tables) = (
        _QCOW_HEADER.unpack_from(head)
    )
    if version not in {2, 3}:
        raise BadImage(
            f"it is a qcow image of version {version}, and 2 and 3 are known",
            "convert it: qemu-img convert -O qcow2 IMAGE IMAGE.qcow2",
        )
    features = _features(head) if version == 3 else 0
    _refuse_qcow(backing, encryption, features)
    if not 9 <= cluster_bits <= 21 or virtual_size == 0:
        raise BadImage(
            f"its qcow2 header is damaged: clusters of 2^{cluster_bits} bytes, a disk of {virtual_size}",
            "have it made or downloaded again",
        )
    l1_entries, l1_offset, refcount_offset, refcount_clusters, *_ = tables
    for what, start, length in (
        ("its L1 table", l1_offset, l1_entries * 8),
        ("its refcount table", refcount_offset, refcount_clusters << cluster_bits),
    ):
        if start + length > size:
            raise _truncated(f"{what} ends at {start + length:,} bytes, and it has {size:,}")
    if l1_entries * 8 > _LARGEST_L1:
        raise BadImage(
            "its qcow2 header is damaged: the L1 table is too large", "have it made again"
        )
    stride = 2 if features & _EXTENDED_L2 else 1
    _check_clusters(file, size, 1 << cluster_bits, _table(file, l1_offset, l1_entries), stride)
    return int(virtual_size)


def _features(head: bytes) -> int:
    if len(head) < _QCOW_HEADER.size + _INCOMPATIBLE.size:
        raise _truncated("it ends within its header")
    features: int = _INCOMPATIBLE.unpack_from(head, _QCOW_HEADER.size)[0]
    return features


def _refuse_qcow(backing: int, encryption: int, features: int) -> None:
    """Refuse an image that does not stand on its own."""
    flat = "make one of its own: qemu-img convert -O qcow2 IMAGE FLAT.qcow2"
    if backing:
        raise BadImage(
            "it has a backing file: it holds only what differs from another image, which a guest on "
            "another machine would miss",
            flat,
        )
    if features & _EXTERNAL_DATA:
        raise BadImage("its data is in another file", flat)
    if encryption:
        raise BadImage("it is encrypted", "decrypt it: qemu-img convert")
    if features & _CORRUPT:
        raise BadImage("it is marked as corrupt", "repair it: qemu-img check -r all IMAGE")
    if features & ~_KNOWN_FEATURES:
        raise BadImage(f"it has qcow2 features that are not known: {features:#x}", flat)


def _check_clusters(file: BinaryIO, size: int, cluster: int, l1: array[int], stride: int) -> None:
    """Look whether what the tables lead to is within the file."""
    tables = [entry & _OFFSET for entry in l1 if entry & _OFFSET]
    end = max(tables, default=0) + cluster if tables else 0
    if end > size:
        raise _truncated(f"its L2 tables end at {end:,} bytes, and it has {size:,}")
    shift = 62 - (cluster.bit_length() - 1 - 8)  # a compressed cluster's offset is below
    compressed_offset = (1 << shift) - 1
    for table in tables[:_MOST_L2]:
        entries = _table(file, table, cluster // 8)[::stride]
        last = max(
            (
                entry & (compressed_offset if entry & _COMPRESSED else _OFFSET)
                for entry in set(entries)
            ),
            default=0,
        )
        if last >= size:
            raise _truncated(f"it has data at {last:,} bytes, and {size:,} bytes in all")


def _table(file: BinaryIO, offset: int, entries: int) -> array[int]:
    file.seek(offset)
    table = array("Q", file.read(entries * 8))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _truncated(sign: str) -> BadImage:
    return BadImage(f"it is not complete: {sign}", "copy or download it again")
