"""What every node has of its own on top of its root: /proc, /sys, /dev, /run, /tmp, volumes."""

from __future__ import annotations

import errno
import os
import stat

from pytest_benchscale.backends.local.rootfs import bind_read_only
from pytest_benchscale.transports.namespace.linux import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    pivot_root,
    umount,
)

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_OPTIONAL_DEVICES = ("net/tun", "fuse")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# Entries of /proc that are the whole machine's. The kernel asks for the user id there, not for a
# capability, so a user namespace does not protect them from the machine's root.
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "acpi", "scsi", "asound", "fs")
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats")


def mount_proc(root: str, *, protect_machine: bool) -> None:
    """Mount the /proc of this pid namespace; `protect_machine`: we are the machine's root."""
    proc = f"{root}/proc"
    os.makedirs(proc, exist_ok=True)
    mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if not protect_machine:
        return
    for name in _PROC_READ_ONLY:
        if os.path.exists(f"{proc}/{name}"):
            bind_read_only(f"{proc}/{name}", f"{proc}/{name}")
    # Of /proc/sys this part belongs to the network namespace, and so to the node.
    mount(f"{proc}/sys/net", f"{proc}/sys/net", None, MS_BIND)
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount(None, f"{proc}/sys/net", None, flags)
    for name in _PROC_HIDDEN:
        if os.path.exists(f"{proc}/{name}"):
            mount("/dev/null", f"{proc}/{name}", None, MS_BIND)


def mount_dev(root: str) -> None:
    """Mount a /dev with the devices that any program may expect.

    Device nodes work where the machine's root makes them; elsewhere the machine's own are shown.
    """
    dev = f"{root}/dev"
    os.makedirs(dev, exist_ok=True)
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    os.mkdir(f"{dev}/net")
    for name in (*_DEVICES, *_OPTIONAL_DEVICES):
        if os.path.exists(f"/dev/{name}"):
            _add_device(f"/dev/{name}", f"{dev}/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    os.mkdir(f"{dev}/pts")


def _add_device(device: str, path: str) -> None:
    status = os.stat(device)
    try:
        os.mknod(path, status.st_mode, status.st_rdev)
        os.chmod(path, stat.S_IMODE(status.st_mode))  # which the umask took from it
    except PermissionError:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        mount(device, path, None, MS_BIND)


def mount_own_directories(root: str) -> None:
    """Mount /sys, /run, /tmp and what is in /dev, inside the node's network and user namespaces."""
    for name in ("sys", "run", "tmp"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    read_only = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        mount("sysfs", f"{root}/sys", "sysfs", read_only)
    except PermissionError:
        # Refused where the surrounding container hides part of its own /sys.
        mount("tmpfs", f"{root}/sys", "tmpfs", read_only, "mode=555")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    options = "newinstance,ptmxmode=0666,mode=0620"
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir(f"{root}/run/lock", 0o1777)
    os.chmod(f"{root}/run/lock", 0o1777)  # noqa: S103 - sticky, as on any machine
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def bind_volume(source: str, root: str, target: str, *, read_only: bool) -> None:
    """Show a directory or file of the machine in the node.

    Raises:
        OSError: either path cannot be used, or the target leads out of the node by a symlink.
    """
    inside = os.path.realpath(f"{root}/{target.lstrip('/')}")
    if not inside.startswith(f"{root}/"):
        raise OSError(errno.ELOOP, "the target of a volume leads through a symlink", target)
    if os.path.isdir(source):
        os.makedirs(inside, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
    if read_only:
        bind_read_only(source, inside)
    else:
        mount(source, inside, None, MS_BIND | MS_REC)


def enter(root: str) -> None:
    """Make `root` this mount namespace's root and let go of everything else."""
    # A mount that was inherited from another user namespace is locked to its place; a bind is not.
    mount(root, root, None, MS_BIND | MS_REC)
    os.chdir(root)
    pivot_root(".", ".")
    umount(".")
    os.chdir("/")
