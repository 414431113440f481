"""The test images: what is in them, and the names under which the daemons have them.

Each is made from Debian packages, since a test pulls nothing, and tagged with the hash of its recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["IMAGES", "REPOSITORY", "ROOTS", "Image", "Root", "reference", "root_hash"]

REPOSITORY = "benchscale-test"


@dataclass(frozen=True)
class Root:
    """How a root file system is made, as data: its hash is part of the cached tarball's name.

    From the root file system `base`, or from nothing. With `packages`, these are installed; with
    `picks`, only what matches one of these patterns is kept. Hooks are shell, run on this machine
    with the directory as "$1".
    """

    base: str = ""
    packages: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # paths that dpkg does not unpack
    prepare: tuple[str, ...] = ()  # hooks before the packages are installed
    finish: tuple[str, ...] = ()  # hooks once they are
    picks: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)  # symbolic links that point elsewhere
    suite: str = "bookworm"


@dataclass(frozen=True)
class Image:
    """A root file system, and how a container of it starts."""

    root: str
    changes: tuple[str, ...]  # lines of a Dockerfile


_UNREAD = ("doc", "man", "info", "locale", "lintian", "bug")
_UNUSED_PYTHON = ("test", "lib2to3", "idlelib", "ensurepip", "pydoc_data")

# What an interpreter links to, and the modules that talk to sockets, processes and files.
_PYTHON_LIBRARIES = (
    *("ld-linux*", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"),
    *("libutil.so.1", "libresolv.so.2", "libnss_files*", "libnss_dns*", "libz.so.1*"),
    *("libexpat.so.1*", "libffi.so.8*", "libssl.so.3", "libcrypto.so.3", "libbz2.so.1*"),
    *("liblzma.so.5*", "libuuid.so.1*", "libcrypt.so.1*"),
)

# Under emulation each unit of a guest costs a tenth of a second and more, and each stage of cloud-init four.
_UNUSED_UNITS = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "getty.target", "systemd-pstore.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
    *("modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service"),
    *("modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service"),
    *("systemd-binfmt.service", "systemd-update-utmp.service", "systemd-rfkill.socket"),
    *("systemd-update-utmp-runlevel.service", "systemd-network-generator.service"),
    *("cloud-init-hotplugd.socket", "blk-availability.service", "cron.service"),
    "systemd-networkd-wait-online.service",  # who needs the network waits for it
)

# Those of cloud-init's steps that a topology file can ask for, and what a machine needs besides.
_CLOUD_INIT = """\
datasource_list: [NoCloud, None]
locale: false
cloud_init_modules: [bootcmd, write-files, growpart, resizefs, set_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules:
  [package-update-upgrade-install, write-files-deferred, scripts-user, final-message]
"""
# Each further connection is a login, which costs an emulated processor a second and more.
_MANY_SESSIONS = "MaxSessions 64\nMaxStartups 64\nUseDNS no\n"
_POWER_BUTTON = "event=button/power\naction=/sbin/poweroff\n"

# What finds the root of a guest: nothing else belongs into its initramfs.
_SMALL_INITRAMFS = r"MODULES=list\nBUSYBOX=n\nCOMPRESS=lz4\n"
_DISK_DRIVERS = r"virtio_pci\nvirtio_blk\next4\n"

ROOTS: Mapping[str, Root] = {
    "debian": Root(
        # usr-is-merged stands in for usrmerge, which brings all of Perl. posh is for `plain`.
        packages=(
            *("iproute2", "iputils-ping", "python3", "procps", "curl", "posh"),
            "usr-is-merged",
        ),
        exclude=(*(f"/usr/share/{name}/*" for name in _UNREAD), "/usr/lib/*/gconv/*"),
        finish=(
            'chroot "$1" useradd --uid 1234 --create-home --shell /bin/sh app',
            'rm -rf "$1"/var/cache/debconf/*-old',
            *(f'rm -rf "$1"/usr/lib/python3.*/{name}' for name in _UNUSED_PYTHON),
        ),
    ),
    # An interpreter and nothing else: no shell, no tool.
    "bare": Root(
        base="debian",
        picks=(
            *("bin", "lib", "lib64", "sbin", "tmp", "root", "etc", "etc/passwd", "etc/group"),
            *("etc/nsswitch.conf", "etc/ld.so.cache", "etc/os-release", "usr/lib/os-release"),
            *("usr/bin/python3", "usr/bin/python3.[0-9]*", "usr/lib/python3.*"),
            "usr/lib64/ld-linux*",
            *(f"usr/lib/*-linux-gnu*/{library}" for library in _PYTHON_LIBRARIES),
        ),
    ),
    # A /bin/sh that has nothing beyond POSIX, and of that not all: no `test -ef`, `set -m`, `type`,
    # `ulimit`, no builtin printf.
    "plain": Root(base="debian", picks=("*",), links={"usr/bin/sh": "posh"}),
    "postgres": Root(
        base="debian",
        packages=("postgresql-15",),
        exclude=(
            # What compiles queries, which no test needs: half of the size.
            *("/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*", "/usr/lib/postgresql/*/lib/bitcode/*"),
            *("/usr/lib/postgresql/*/lib/llvmjit*", "/usr/share/i18n/*"),
        ),
        prepare=(
            'mkdir -p "$1"/etc/postgresql-common',
            'echo "create_main_cluster = false" >"$1"/etc/postgresql-common/createcluster.conf',
        ),
        finish=(
            # Only Debian's wrappers around PostgreSQL's own programs are written in Perl.
            'rm -rf "$1"/usr/share/perl "$1"/usr/lib/*/perl',
            'chroot "$1" install -d -o postgres -g postgres /var/run/postgresql',
        ),
    ),
    # On its base there are a shell and a `hostname`, as in the image that it stands in for.
    "etcd": Root(base="debian", packages=("etcd-server", "etcd-client")),
    # A whole machine: kernel, systemd and cloud-init; `guests` makes a disk of it.
    "guest": Root(
        packages=(
            *("linux-image-cloud-amd64", "initramfs-tools", "lz4", "systemd-sysv", "udev", "acpid"),
            *("kmod", "e2fsprogs", "fdisk", "cloud-init", "cloud-guest-utils", "openssh-server"),
            *("sudo", "iproute2", "iputils-ping", "procps", "curl", "python3", "usr-is-merged"),
        ),
        exclude=(*(f"/usr/share/{name}/*" for name in _UNREAD), "/usr/lib/*/gconv/*"),
        prepare=(
            'mkdir -p "$1"/etc/initramfs-tools/conf.d',
            f"printf '{_SMALL_INITRAMFS}' >\"$1\"/etc/initramfs-tools/conf.d/guest",
            f"printf '{_DISK_DRIVERS}' >\"$1\"/etc/initramfs-tools/modules",
        ),
        finish=(
            'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/etc/resolv.conf',
            'printf uninitialized >"$1"/etc/machine-id',
            'echo "/dev/vda1 / ext4 errors=remount-ro,noatime 0 1" >"$1"/etc/fstab',
            'chroot "$1" systemctl enable systemd-networkd.service ssh.service',
            f'chroot "$1" systemctl mask {" ".join(_UNUSED_UNITS)}',
            # It has no archive to install from: `packages` are there, or cannot be had.
            'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d',
            f"printf '{_CLOUD_INIT}' >\"$1\"/etc/cloud/cloud.cfg.d/90-guest.cfg",
            f"printf '{_POWER_BUTTON}' >\"$1\"/etc/acpi/events/powerbtn-acpi-support",
            f"printf '{_MANY_SESSIONS}' >\"$1\"/etc/ssh/sshd_config.d/guest.conf",
            # It checks its own files with that at every stage; without, it goes on.
            'rm -rf "$1"/usr/lib/python3/dist-packages/jsonschema',
            *(f'rm -rf "$1"/usr/lib/python3.*/{name}' for name in _UNUSED_PYTHON),
        ),
    ),
}

_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATH = f"ENV PATH={_SEARCHED}"
_IDLE = 'CMD ["sleep", "infinity"]'

IMAGES: Mapping[str, Image] = {
    "debian": Image("debian", (_PATH, _IDLE)),
    "bare": Image(
        "bare", (_PATH, 'CMD ["/usr/bin/python3", "-c", "import signal; signal.pause()"]')
    ),
    "plain": Image("plain", (_PATH, _IDLE)),
    "postgres": Image("postgres", (f"ENV PATH=/usr/lib/postgresql/15/bin:{_SEARCHED}", _IDLE)),
    "etcd": Image("etcd", (_PATH, _IDLE)),
    "user": Image("debian", (_PATH, "USER app", "WORKDIR /home/app", _IDLE)),
}


def root_hash(name: str) -> str:
    """Return the hash of everything that decides what a root file system holds."""
    recipe = asdict(ROOTS[name])
    if recipe["base"]:
        recipe["base"] = root_hash(recipe["base"])
    return _hash(recipe)


def reference(name: str) -> str:
    """Return the reference of a test image, such as benchscale-test/debian:0123456789ab."""
    image = IMAGES[name]
    return f"{REPOSITORY}/{name}:{_hash([root_hash(image.root), image.changes])}"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
