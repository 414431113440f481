"""The state of a running guest, remembered in its own disk and gone with it."""

from __future__ import annotations

from typing import Any

import libvirt
import libvirt_qemu

__all__ = ["CHECKPOINT", "KEPT", "RevertError", "revert", "take"]

CHECKPOINT, KEPT = "checkpoint", "kept"
"""Names of snapshots: that of the first readiness, and that of a moment. Beside them there may be the one of
the prepared state that the disk was copied of."""


class RevertError(Exception):
    """QEMU does not load the snapshot; says why."""


def take(raw: Any, name: str, snapshot: str) -> None:
    """Remember how a domain is now, in place of the snapshot of that name; it stands still meanwhile.

    Raises:
        libvirt.libvirtError: that is not possible.
    """
    xml = f"<domainsnapshot><name>{snapshot}</name></domainsnapshot>"
    domain = raw.lookupByName(name)
    domain.suspend()
    try:
        domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)
    finally:
        domain.resume()


def revert(raw: Any, name: str) -> None:
    """Lead a domain back, running or paused, in the same QEMU; it runs then.

    libvirt's own way starts another QEMU, and only one that is not to end with a connection.

    Raises:
        libvirt.libvirtError: there is no such domain, or it does not answer.
        RevertError: it cannot load the state.
    """
    domain = raw.lookupByName(name)
    domain.suspend()
    answer = libvirt_qemu.qemuMonitorCommand(
        domain, f"loadvm {CHECKPOINT}", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    )
    if answer.strip():  # it says something only when it failed
        raise RevertError(answer.strip())
    domain.resume()
