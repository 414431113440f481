"""What a libvirt daemon's refusal means, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from pytest_benchscale.errors import LabError

__all__ = ["ENDED", "GONE", "explain", "told"]

GONE = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }
)
"""What is asked for is not there."""

ENDED = GONE | {libvirt.VIR_ERR_OPERATION_INVALID}
"""A domain is not there, or does not run."""

_ADVICE = {
    r"Cannot allocate memory|cannot set up guest memory": "the machine has not so much free memory: give "
    "the nodes a smaller `memory_mb`, or run fewer at once",
    r"No space left": "make room on the disk of the daemon's storage pool",
    r"Permission denied|Could not open": "QEMU's user must be able to read the files of the pool, and enter "
    "all directories above it",
    r"already exists with uuid|is already active": "a lab of the same id is there: that is a mistake of ours",
    r"File exists|already in use": "something on the daemon's machine has that name already; look at "
    "`ip link`, or try again",
    r"maximum vcpus|vCPUs": "give the node fewer `vcpus`",
    r"creating bridge interface .*Operation not permitted": "this daemon may make no networks: use that of "
    "the system, LIBVIRT_DEFAULT_URI=qemu:///system",
    r"dnsmasq": "install dnsmasq on the daemon's machine: `apt-get install dnsmasq-base`",
    r"iptables|nft|firewall": "install iptables on the daemon's machine, and let libvirt's rules be",
    r"internal client socket closed|client socket is closed|Cannot write data|End of file|"
    r"Connection reset|Failed to connect": "the libvirt daemon went away: look at its log, start it again",
    r"memory": "give the node a smaller `memory_mb`",
}


def explain(error: libvirt.libvirtError, what: str, step: str, node: str | None = None) -> LabError:
    """Return what to tell when the daemon refused something."""
    text = (error.get_error_message() or str(error)).strip()
    advice = (cure for pattern, cure in _ADVICE.items() if re.search(pattern, text, re.IGNORECASE))
    return LabError(f"{what}: {text}", node=node, step=step, resolution=next(advice, None))


@contextmanager
def told(what: str, step: str, node: str | None = None) -> Iterator[None]:
    """Make a `LabError` of a refusal."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise explain(error, what, step, node) from error
