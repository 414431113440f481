"""Whether the processor runs guests itself, or QEMU has to do all of it.

That /dev/kvm is there says little: on some machines a guest on it hardly gets on. So a guest is run on it,
whose firmware finds nothing to boot and starts the machine again, which ends it. KVM is used only when it
does that about as fast as emulation does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import anyio
import libvirt
from anyio import to_thread

from pytest_benchscale.backends.libvirt.connection import Connection

__all__ = ["Acceleration", "Accelerator", "find_acceleration"]

Accelerator = Literal["kvm", "qemu"]

_EMULATED_SECONDS = 20.0
_SHORTEST_SECONDS, _FACTOR = 1.0, 3.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# The smallest guest there is: firmware and nothing else.
_PROBE = """\
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type>hvm</type><boot dev='hd'/><bios rebootTimeout='0'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices><memballoon model='none'/></devices>
</domain>
"""


class Acceleration:
    """What domains are to be of, and why, in words for the report."""

    def __init__(self, kind: Accelerator, why: str) -> None:
        self.kind = kind
        self.why = why

    @property
    def in_words(self) -> str:
        """`KVM`, or emulation and why."""
        return "KVM" if self.kind == "kvm" else f"emulation: {self.why}"


async def find_acceleration(connection: Connection, cache: Path) -> Acceleration:
    """Return what this daemon's guests run on; found out once for each boot of its machine.

    Raises:
        libvirt.libvirtError: the daemon does not say.
    """
    known = cache / f"acceleration-{await connection.call(_key, connection)}.json"
    if (remembered := await to_thread.run_sync(_read, known)) is not None:
        return remembered
    found = await _find(connection)
    await to_thread.run_sync(_write, known, found)
    return found


async def _find(connection: Connection) -> Acceleration:
    if "<domain type='kvm'" not in await connection.call(connection.raw.getCapabilities):
        return Acceleration("qemu", "the daemon has no access to /dev/kvm")
    emulated = await _seconds(connection, "qemu", _EMULATED_SECONDS)
    if emulated is None:  # it tells nothing about KVM
        emulated = _EMULATED_SECONDS / _FACTOR
    allowed = max(_SHORTEST_SECONDS, _FACTOR * emulated)
    if await _seconds(connection, "kvm", allowed) is not None:
        return Acceleration("kvm", "")
    return Acceleration("qemu", f"a probe guest on KVM got nowhere in {allowed:.1f} s")


async def _seconds(connection: Connection, kind: Accelerator, allowed: float) -> float | None:
    """Return how long the probe guest runs until it starts again; None: longer than that, or not at all."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    xml = _PROBE.format(kind=kind, name=f"benchscale-probe-{uuid.uuid4().hex[:8]}")

    def changed(_: Any, __: Any, event: int, ___: int, ____: Any) -> None:
        if event in (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_STOPPED):
            loop.call_soon_threadsafe(ended.set)

    try:
        domain = await connection.call(
            connection.raw.createXML,
            xml,
            libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_PAUSED,
        )
    except libvirt.libvirtError:
        return None
    number = None
    try:
        number = await connection.call(
            connection.raw.domainEventRegisterAny,
            domain,
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            changed,
            None,
        )
        began = anyio.current_time()
        await connection.call(domain.resume)
        with anyio.move_on_after(allowed):
            await ended.wait()
            return anyio.current_time() - began
        return None
    finally:
        with anyio.CancelScope(shield=True):
            await _quietly(connection, domain.destroy)
            if number is not None:
                await _quietly(connection, connection.raw.domainEventDeregisterAny, number)


async def _quietly(connection: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    with suppress(libvirt.libvirtError):  # it has ended by itself
        await connection.call(function, *arguments)


def _key(connection: Connection) -> str:
    """Return what tells this daemon's machine, its software and, where known, its boot from others."""
    boot = _BOOT_ID.read_text() if connection.is_local and _BOOT_ID.exists() else ""
    raw = connection.raw
    parts = (raw.getHostname(), raw.getURI(), raw.getVersion(), raw.getLibVersion(), boot)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> Acceleration | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Acceleration("kvm" if known["kind"] == "kvm" else "qemu", str(known["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not known yet, or a file of something else


def _write(path: Path, found: Acceleration) -> None:
    with suppress(OSError):  # then it is found out again
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
        unfinished.write_text(json.dumps({"kind": found.kind, "why": found.why}), encoding="utf-8")
        unfinished.replace(path)
