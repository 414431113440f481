"""Image names: what each backend runs for them."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path

from pytest_benchscale.errors import NotSupported
from pytest_benchscale.topology.checks import did_you_mean
from pytest_benchscale.topology.model import Build

__all__ = [
    "BUILD_PREFIX",
    "CATALOGUE",
    "DEFAULT",
    "HOST",
    "TOOLS",
    "is_rootfs",
    "resolve",
    "rootfs_path",
]

DEFAULT = "default"
HOST = "host"  # for `local`: this machine's own root
TOOLS = "tc"  # an image with iproute2, run beside a container; the user says which
BUILD_PREFIX = "build:"  # for containers: a directory with a Dockerfile

_DEBIAN = "https://cloud.debian.org/images/cloud"
_UBUNTU = "https://cloud-images.ubuntu.com/releases"


def _container(reference: str) -> dict[str, str]:
    return {"docker": reference, "podman": reference}


def _debian(codename: str, number: int) -> str:
    return f"{_DEBIAN}/{codename}/latest/debian-{number}-genericcloud-{{arch}}.qcow2"


def _ubuntu(release: str) -> str:
    return f"{_UBUNTU}/{release}/release/ubuntu-{release}-server-cloudimg-{{arch}}.img"


# Name -> backend -> reference. {arch} stands for this machine's architecture, as Debian calls it. A name that
# is not here is the backend's own reference, where the backend has such.
CATALOGUE: Mapping[str, Mapping[str, str]] = {
    DEFAULT: {
        "local": HOST,
        **_container("debian:stable-slim"),
        "libvirt": _debian("bookworm", 12),
        "lxd": "images:debian/12",
        "ssh": HOST,
    },
    HOST: {"local": HOST, "ssh": HOST},
    "debian": {
        **_container("debian:stable-slim"),
        "libvirt": _debian("bookworm", 12),
        "lxd": "images:debian/12",
    },
    "debian-12": {
        **_container("debian:12-slim"),
        "libvirt": _debian("bookworm", 12),
        "lxd": "images:debian/12",
    },
    "debian-13": {
        **_container("debian:13-slim"),
        "libvirt": _debian("trixie", 13),
        "lxd": "images:debian/13",
    },
    "ubuntu": {
        **_container("ubuntu:latest"),
        "libvirt": _ubuntu("24.04"),
        "lxd": "ubuntu:24.04",
    },
    "ubuntu-22.04": {
        **_container("ubuntu:22.04"),
        "libvirt": _ubuntu("22.04"),
        "lxd": "ubuntu:22.04",
    },
    "ubuntu-24.04": {
        **_container("ubuntu:24.04"),
        "libvirt": _ubuntu("24.04"),
        "lxd": "ubuntu:24.04",
    },
    "ubuntu-22.04-cloudimg": {"libvirt": _ubuntu("22.04")},
    "ubuntu-24.04-cloudimg": {"libvirt": _ubuntu("24.04")},
    "alpine": {**_container("alpine:latest"), "lxd": "images:alpine/edge"},
    "fedora": {**_container("fedora:latest"), "lxd": "images:fedora/41"},
    "python": _container("python:3-slim"),
    "nginx": _container("nginx:latest"),
}

_ROOTFS_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tar.zst")
_DISK = re.compile(
    r"\.(qcow2|img|raw)(#|$)"
)  # behind a # stands its sum or what it is started with
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def resolve(
    image: str | Mapping[str, str | Build] | None, backend: str, overrides: Mapping[str, str]
) -> str:
    """Return what a backend runs for a node's `image`; None is the catalogue's default.

    `overrides` are the user's own names and what they stand for, and win over the catalogue. For `local` the
    result is "host", or a path for `rootfs_path`; for containers it may be "build:DIRECTORY".

    Raises:
        NotSupported: the backend has nothing for that image, and never runs another in its place.
    """
    if isinstance(image, Mapping):
        return _from_mapping(image, backend, overrides)
    name = DEFAULT if image is None else image
    wanted = overrides.get(name, name)
    known = CATALOGUE.get(wanted, {}).get(backend)
    if known is not None:
        return known.format(arch=_MACHINES.get(platform.machine(), platform.machine()))
    if backend not in CATALOGUE[DEFAULT] or _is_reference(wanted, backend):
        return wanted
    raise NotSupported(backend, f"the image {wanted!r}", resolution=_what_to_do(wanted, backend))


def _from_mapping(
    image: Mapping[str, str | Build], backend: str, overrides: Mapping[str, str]
) -> str:
    own = image.get(backend)
    if own is None:
        raise NotSupported(
            backend,
            f"an image that is given for {', '.join(image)} only",
            resolution=f"add `{backend}: ...` to the node's `image`",
        )
    if isinstance(own, Build):
        return f"{BUILD_PREFIX}{own.build}"
    return resolve(own, backend, overrides)


def _is_reference(image: str, backend: str) -> bool:
    """Return whether an image that is not in the catalogue is something that the backend can take."""
    if backend == "local":
        return is_rootfs(image)
    if backend == "libvirt":
        return "://" in image or "/" in image or _DISK.search(image) is not None
    if backend == "ssh":
        return False
    # A name that the catalogue has for other backends only, such as a VM's disk image.
    return image not in CATALOGUE


def _what_to_do(image: str, backend: str) -> str:
    if backend == "local":
        return (
            f"`local` runs this machine's own root, or a root file system of yours: say "
            f"--benchscale-image {image}=host if this machine will do, or {image}=./rootfs.tar; "
            "or choose a backend that has images of its own"
        )
    if backend == "ssh":
        return "the machine is there already: leave `image` out"
    names = [name for name, references in CATALOGUE.items() if backend in references]
    example = "URL-OR-PATH" if backend == "libvirt" else "REFERENCE"
    return (
        f"say --benchscale-image {image}={example}, or name another image"
        f"{did_you_mean(image, names)}"
    )


def is_rootfs(reference: str) -> bool:
    """Return whether a reference for `local` is a root file system: a directory or a tarball."""
    return reference.startswith(("/", "./", "../", "~")) or reference.endswith(_ROOTFS_SUFFIXES)


def rootfs_path(reference: str, directory: Path) -> Path:
    """Return where a root file system is; `directory` is the topology's."""
    return directory / Path(reference).expanduser()
