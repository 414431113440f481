"""A libvirt daemon for tests: found, or one of our own."""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.daemons.endpoints import Unreachable
from tests.daemons.own import run_directory
from tests.daemons.packages import search_path
from tests.daemons.service import Holder, NotStarted, is_alive, tail

__all__ = [
    "LIBVIRTD",
    "STAYING",
    "VARIABLE",
    "VIRTLOGD",
    "Libvirtd",
    "clear",
    "connection",
    "description",
    "find",
    "start",
]

VARIABLE = "LIBVIRT_DEFAULT_URI"
_SYSTEM = "qemu:///system"
_SECONDS_TO_START = 60.0
_SECONDS_TO_ANSWER = 20.0
STAYING = (
    "benchscale-base-",
    "benchscale-prepared-",
)  # from run to run, as images of containers do

_CONFIGURATION = """\
unix_sock_dir = "{sockets}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""

# With a /run/libvirt and an /etc/libvirt of its own: it knows nothing of what the machine's daemon has, and
# that one nothing of it. Its /dev/kvm is as udev makes it: where none has set the group, what libvirt knows
# of QEMU counts as out of date at every start of a guest, and to find it out again takes four seconds.
_APART = """\
set -e
mount -t tmpfs none /run/libvirt
mount --bind "$1" /etc/libvirt
if [ -c /dev/kvm ]; then
    cp -a /dev/kvm /run/libvirt/kvm
    chown root:kvm /run/libvirt/kvm
    chmod 0660 /run/libvirt/kvm
    mount --bind /run/libvirt/kvm /dev/kvm
fi
shift
exec "$@"
"""
VIRTLOGD = (
    *("virtlogd", "--config", "/etc/libvirt/virtlogd.conf"),
    *("--pid-file", "/run/libvirt/virtlogd.pid"),
)
LIBVIRTD = (
    *("libvirtd", "--config", "/etc/libvirt/libvirtd.conf"),
    *("--pid-file", "/run/libvirt/libvirtd.pid"),
)


def find(environment: Mapping[str, str] = os.environ) -> str:
    """Return the URI at which a daemon answers.

    Raises:
        Unreachable: none does.
    """
    uri = environment.get(VARIABLE) or _SYSTEM
    with connection(uri):
        return uri


@contextmanager
def connection(uri: str) -> Iterator[Any]:
    """Connect to a daemon.

    Raises:
        Unreachable: it does not answer, or libvirt-python is not installed.
    """
    try:
        import libvirt  # noqa: PLC0415  it is not always there
    except ImportError as error:
        raise Unreachable("libvirt-python is not installed") from error
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    opened: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            opened.put(libvirt.open(uri))
        except libvirt.libvirtError as error:
            opened.put(Unreachable(f"no libvirt daemon answers at {uri}: {error}"))

    # A daemon that hangs is as good as none; the thread ends with the process.
    threading.Thread(target=connect, daemon=True).start()
    try:
        found = opened.get(timeout=_SECONDS_TO_ANSWER)
    except queue.Empty:
        raise Unreachable(f"no answer at {uri} within {_SECONDS_TO_ANSWER:.0f} s") from None
    if isinstance(found, Unreachable):
        raise found
    try:
        yield found
    finally:
        with suppress(libvirt.libvirtError):
            found.close()


def description(thing: Any) -> str | None:
    """Return the XML of a domain or network that was listed; None: it has gone since then."""
    import libvirt  # noqa: PLC0415  it is not always there

    try:
        return str(thing.XMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK):
            return None
        raise


class Libvirtd:
    """A libvirtd with virtlogd, and everything of them in a directory; in namespaces of their own."""

    def __init__(self, directory: Path) -> None:
        """Write what they are configured with."""
        self.uri = f"qemu:///system?socket={directory}/sockets/libvirt-sock"
        self.log = directory / "libvirtd.log"
        self.pid = 0
        self.apart = ("unshare", "--mount", "sh", "-c", _APART, "sh", f"{directory}/configuration")
        """What the commands are to be started by: they are together where one process of it started both."""
        sockets, configuration = directory / "sockets", directory / "configuration"
        for path in (sockets, configuration, Path("/run/libvirt"), Path("/etc/libvirt")):
            path.mkdir(parents=True, exist_ok=True)
        (configuration / "libvirtd.conf").write_text(_CONFIGURATION.format(sockets=sockets))
        for name in ("virtlogd.conf", "qemu.conf"):
            (configuration / name).write_text("")

    def start(self, holder: Holder, command: Sequence[str]) -> None:
        """Start them and wait until libvirtd answers.

        Raises:
            NotStarted: it does not.
        """
        self.pid = holder.start(command, self.log, {"PATH": search_path()})
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                find({VARIABLE: self.uri})
            except Unreachable as error:
                if not is_alive(self.pid):
                    raise NotStarted(f"it ended at once:\n{tail(self.log)}") from None
                if time.monotonic() > deadline:
                    raise NotStarted(f"{error}:\n{tail(self.log)}") from None
            else:
                return
            time.sleep(0.1)


def start(holder: Holder) -> str:
    """Start libvirtd and virtlogd; return their URI.

    Raises:
        NotStarted: they did not come up.
    """
    if os.geteuid() != 0:
        raise NotStarted("none answers, and only root can start one")
    directory = run_directory() / "libvirt"
    shutil.rmtree(directory, ignore_errors=True)
    libvirtd = Libvirtd(directory)
    both = f"{shlex.join(VIRTLOGD)} & exec {shlex.join(LIBVIRTD)}"
    libvirtd.start(holder, [*libvirtd.apart, "sh", "-c", both])
    return libvirtd.uri


def clear(uri: str) -> int:
    """Remove everything but what stays from a daemon that is ours; return how much it was."""
    with connection(uri) as libvirtd:
        things = [*libvirtd.listAllDomains(), *libvirtd.listAllNetworks()]
        for thing in things:
            if thing.isActive():
                thing.destroy()
            if thing.isPersistent():
                thing.undefine()
        volumes = [
            volume
            for pool in libvirtd.listAllStoragePools()
            for volume in pool.listAllVolumes()
            if not volume.name().startswith(STAYING)
        ]
        for volume in volumes:
            volume.delete(0)
    return len(things) + len(volumes)
