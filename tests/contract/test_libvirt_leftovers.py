"""What a dead lab has left at a libvirt daemon is found and removed, and what only looks like it stays.

No guest boots: the domains have no disks and are paused before their first instruction.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any
from xml.etree.ElementTree import fromstring, tostring

import pytest

from pytest_benchscale.backends.libvirt.backend import LibvirtBackend
from pytest_benchscale.backends.libvirt.network_xml import add_labels
from pytest_benchscale.backends.libvirt.storage import Storage
from tests.daemons import virtual

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio]

_DOMAIN = (
    "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>"
    "<devices><memballoon model='none'/></devices></domain>"
)
_NETWORK = "<network><name>{name}</name><bridge name='{bridge}'/></network>"
_VOLUME = "<volume><name>{name}</name><capacity>4096</capacity><target><format type='raw'/></target></volume>"


class Daemon:
    """Makes things at the daemon, and removes those that are still there."""

    def __init__(self, raw: Any, pool: str) -> None:
        self._raw = raw
        self._pool = pool
        self.made: dict[str, Any] = {}

    def domain(self, name: str, labels: dict[str, str], *, persistent: bool = False) -> None:
        """Start one that does nothing."""
        xml = _with(_DOMAIN.format(name=name), labels)
        if persistent:
            self.made[name] = self._raw.defineXML(xml)
            self.made[name].createWithFlags(1)  # VIR_DOMAIN_START_PAUSED
        else:
            self.made[name] = self._raw.createXML(xml, 1)

    def network(self, name: str, bridge: str, labels: dict[str, str]) -> None:
        """Start one."""
        xml = _with(_NETWORK.format(name=name, bridge=bridge), labels)
        self.made[name] = self._raw.networkCreateXML(xml)

    def volume(self, name: str) -> None:
        """Make one."""
        pool = self._raw.storagePoolLookupByName(self._pool)
        self.made[name] = pool.createXML(_VOLUME.format(name=name), 0)

    def there(self) -> set[str]:
        """Return what of it is there."""
        volumes = self._raw.storagePoolLookupByName(self._pool).listAllVolumes()
        found = [*self._raw.listAllDomains(), *self._raw.listAllNetworks(), *volumes]
        return {one.name() for one in found} & set(self.made)

    def clear(self) -> None:
        """Remove what is there."""
        import libvirt  # noqa: PLC0415  it is not always there

        for thing in self.made.values():
            for end in ("destroy", "undefine", "delete"):
                with suppress(libvirt.libvirtError, AttributeError):
                    getattr(thing, end)()


def _with(xml: str, labels: dict[str, str]) -> str:
    root = fromstring(xml)
    add_labels(root, labels)
    return tostring(root, encoding="unicode")


@pytest.fixture
async def backend() -> Any:
    """Return one that has no lab, as the command that clears up has."""
    backend = LibvirtBackend()
    await backend.probe()
    yield backend
    await backend.close()


@pytest.fixture
async def daemon(backend: LibvirtBackend) -> Any:
    """Look at the daemon by other means than ours."""
    storage = await Storage.open(await backend._reach())
    with virtual.connection(virtual.find()) as raw:
        daemon = Daemon(raw, storage._name)
        yield daemon
        daemon.clear()


async def test_all_of_a_lab_goes_and_what_only_looks_like_it_stays(
    backend: LibvirtBackend, daemon: Daemon
) -> None:
    run, lab, other = uuid.uuid4().hex, uuid.uuid4().hex[:8], uuid.uuid4().hex[:8]
    labels = {"benchscale.run": run, "benchscale.lab": lab}
    ours = {
        f"benchscale-{lab}-alpha-0",
        f"benchscale-{lab}-lan-0",
        f"benchscale-{lab}-management",
        f"benchscale-{run}-{lab}-0-alpha.disk",
        f"benchscale-{run}-{lab}-0-alpha.console",
    }
    daemon.domain(f"benchscale-{lab}-alpha-0", labels)
    daemon.network(f"benchscale-{lab}-lan-0", f"bn{lab}-0", labels)
    daemon.network(f"benchscale-{lab}-management", f"bm{lab}", labels)
    daemon.volume(f"benchscale-{run}-{lab}-0-alpha.disk")
    daemon.volume(f"benchscale-{run}-{lab}-0-alpha.console")
    # What only has a name like ours, or the labels of another lab, of another run, or of a copy.
    daemon.domain(f"benchscale-{lab}-alpha-1", {})
    daemon.domain(f"benchscale-{lab}-alpha-2", labels | {"benchscale.lab": other})
    daemon.domain(f"benchscale-{lab}-alpha-3", labels | {"benchscale.run": uuid.uuid4().hex})
    daemon.domain(f"benchscale-{lab}-alpha-4", labels, persistent=True)
    daemon.network(f"benchscale-{lab}-lan-1", f"bn{lab}-1", {})
    daemon.network(f"benchscale-{lab}-lan-2", f"bn{lab}-2", labels | {"benchscale.lab": other})
    daemon.volume(f"benchscale-{run}-{lab}0-0-alpha.disk")
    daemon.volume(f"benchscale-{run}-{other}-0-alpha.disk")
    daemon.volume(f"benchscale-{run}-{lab}-backup.qcow2")
    daemon.volume(f"my-benchscale-{run}-{lab}-0-alpha.disk")
    foreign = daemon.there() - ours

    owned = {one.identifier for one in await backend.list_owned(run) if one.lab_id == lab}
    assert owned == ours
    await backend.delete_owned(run, lab)
    assert daemon.there() == foreign
    assert not [one for one in await backend.list_owned(run) if one.lab_id == lab]
    await backend.delete_owned(run, lab)  # nothing is there any more
    await backend.delete_owned("", "")
    assert daemon.there() == foreign


async def test_another_process_is_led_to_the_same_daemon(backend: LibvirtBackend) -> None:
    assert backend.place()["LIBVIRT_DEFAULT_URI"] == virtual.find()
