"""Installing what is missing, where that is possible: on Debian and Ubuntu, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NotInstalled", "install", "search_path"]

# What is looked for, on PATH and in the directories of helpers, and the package that brings it.
_PACKAGES = {
    "docker": {"dockerd": "docker.io", "iptables": "iptables"},
    "podman": {
        "podman": "podman",
        "runc": "runc",
        "netavark": "netavark",
        "aardvark-dns": "aardvark-dns",
        "catatonit": "catatonit",
    },
    "libvirt": {
        "libvirtd": "libvirt-daemon-system",
        "virtlogd": "libvirt-daemon-system",
        "qemu-system-x86_64": "qemu-system-x86",
        "qemu-img": "qemu-utils",
        "dnsmasq": "dnsmasq-base",
        "iptables": "iptables",
    },
    "images": {"mmdebstrap": "mmdebstrap"},
    "ssh": {"sshd": "openssh-server", "ssh-keygen": "openssh-client"},
    "etcd": {"etcd": "etcd-server", "etcdctl": "etcd-client"},
    "guests": {"mke2fs": "e2fsprogs", "grub-mkimage": "grub-common", "qemu-img": "qemu-utils"},
}
_HELPERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_BOOT_LOADER = Path("/usr/lib/grub/i386-pc/boot.img")
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


class NotInstalled(Exception):
    """Something is missing and cannot be installed; the text is one line that says what."""


def search_path() -> str:
    """Return PATH with the directories of daemons and their helpers."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_HELPERS])


def install(purpose: str) -> list[str]:
    """Install what is missing for a purpose, such as "docker" or "images"; return the packages.

    Raises:
        NotInstalled: it cannot be installed here.
    """
    packages = list(dict.fromkeys(_missing(purpose)))
    if not packages:
        return []
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise NotInstalled(f"not installed: {wanted}, and this is neither Debian nor Ubuntu")
    if os.geteuid() != 0:
        raise NotInstalled(f"not installed; as root: apt-get install {wanted}")
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *packages)
    return packages


def _missing(purpose: str) -> Iterable[str]:
    for program, package in _PACKAGES[purpose].items():
        if shutil.which(program, path=search_path()) is None:
            yield package
    if purpose == "guests" and not _BOOT_LOADER.exists():
        yield "grub-pc-bin"
    if purpose == "images" and not _KEYRING.exists():
        yield "debian-archive-keyring"
    enforced = _APPARMOR.exists() and _APPARMOR.read_text().startswith("Y")
    if purpose == "docker" and enforced and not shutil.which("apparmor_parser", path=search_path()):
        yield "apparmor"


def _apt(*arguments: str) -> None:
    result = subprocess.run(
        # Another run may be installing at the same moment.
        ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        # Without systemd, a package's script would start its daemon; not in this runlevel.
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
    )
    if result.returncode != 0:
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise NotInstalled(f"apt-get {arguments[0]} failed: {' '.join(last)}")
