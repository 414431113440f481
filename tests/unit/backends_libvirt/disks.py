"""Small disk images, made by hand."""

from __future__ import annotations

import struct

CLUSTER = 1 << 16


def qcow2(
    *,
    virtual_size: int = 1 << 30,
    version: int = 3,
    backing: int = 0,
    encryption: int = 0,
    features: int = 0,
    data: bytes = b"x" * 1000,
) -> bytes:
    """Return an image with one cluster of data: header, L1 table, refcounts, L2 table, data."""
    l1, refcounts, blocks, l2, content = (CLUSTER * n for n in range(1, 6))
    entries = -(-virtual_size // (CLUSTER * CLUSTER // 8))
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", version, backing, 4 if backing else 0, 16, virtual_size, encryption),
        *(entries, l1, refcounts, 1, 0, 0),
    )
    if version == 3:
        header += struct.pack(">QQQII", features, 0, 0, 4, 104)
    copied = 1 << 63
    parts = [
        header,
        struct.pack(">Q", l2 | copied),
        struct.pack(">Q", blocks),
        struct.pack(">6H", *[1] * 6),
        struct.pack(">Q", content | copied),
        data,
    ]
    return b"".join(part.ljust(CLUSTER, b"\0") for part in parts)


def raw(*, size: int = 1 << 20, partition_end: int | None = None) -> bytes:
    """Return a disk with one partition in an MBR."""
    end = (partition_end or size) // 512
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, 1, end - 1)
    return (bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(size, b"\0")


def gpt(*, size: int = 1 << 20, backup: int | None = None) -> bytes:
    """Return a disk with a GPT whose second copy is in the last sector."""
    last = size // 512 - 1 if backup is None else backup
    mbr = bytes(446) + struct.pack("<B3xB3xII", 0, 0xEE, 1, 0xFFFFFFFF) + bytes(48) + b"\x55\xaa"
    header = b"EFI PART" + bytes(16) + struct.pack("<QQ", 1, last)
    return (mbr + header).ljust(size, b"\0")


def ext4(size: int = 1 << 20) -> bytes:
    """Return a disk that is one file system."""
    return (bytes(0x438) + b"\x53\xef").ljust(size, b"\0")
