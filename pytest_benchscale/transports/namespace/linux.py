"""The Linux system calls that the standard library of Python 3.11 lacks.

Thin: each raises `OSError` with the kernel's errno and the path where there is one. Constants are
those of the kernel's uapi headers (sched.h, mount.h, prctl.h).
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

# pivot_root has no wrapper in glibc; its number differs by architecture.
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "armv7l": 218, "ppc64le": 203}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), path)
    return result


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (unshare(2))."""
    _checked(_libc.unshare(flags))


def enter_network_of(pid: int) -> None:
    """Move the calling thread into the network namespace of a process."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind fd (setns(2))."""
    _checked(_libc.setns(fd, kind))


def mount(
    source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """Mount a file system (mount(2))."""
    _checked(
        _libc.mount(
            os.fsencode(source) if source is not None else None,
            os.fsencode(target),
            fstype.encode() if fstype else None,
            flags,
            os.fsencode(data) if data else None,
        ),
        target,
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Unmount a file system, lazily unless told otherwise (umount2(2))."""
    _checked(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make new_root the root of the mount namespace (pivot_root(2))."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _checked(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def prctl(option: int, argument: int | bytes) -> None:
    """Set a property of the calling process (prctl(2))."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    _checked(_libc.prctl(option, value, 0, 0, 0))
