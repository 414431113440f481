"""A test session that is killed while something acts on a virtual machine's link: nothing of it stays."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.backends.libvirt import images
from pytest_benchscale.network.link import NOTHING, Link, LinkState, Side
from pytest_benchscale.network.render import steps
from pytest_benchscale.network.steps import AddMirror
from pytest_benchscale.topology.conditions import Figures
from tests.daemons import virtual
from tests.daemons.guests import one_machine
from tests.faults.sessions import start, wait_for_output

pytestmark = pytest.mark.daemon("libvirt")

SESSION = """
import json
import pytest

@pytest.mark.topology("machine.yaml")
def test_it(lab):
    with lab.sync["machine"].impair(bandwidth_kbps=1000, attest=False):
        links = lab._context.portal.call_blocking(lab._context.backend.links, "machine")
        print("LINK", json.dumps([lab.lab_id, links["lan"].device]), "END", flush=True)
        lab.sync["machine"].exec("sleep 1000", timeout=900)
"""
LIMITED = LinkState(figures=Figures(bandwidth_kbps=1000))


class _Nowhere:
    async def change(self, steps: Any) -> None:
        """Not to be asked."""
        raise AssertionError


def devices_for(tap: str) -> set[str]:
    """Return the devices that are made beside a tap to limit its rate."""
    made = steps(Link(tap, Side.OUTSIDE, _Nowhere()), NOTHING, LIMITED)
    return {step.device for step in made if isinstance(step, AddMirror)}


def test_killing_pytest_in_a_fault_leaves_no_device(workplace: Path) -> None:
    (workplace / "machine.yaml").write_text(one_machine())
    (workplace / "test_it.py").write_text(SESSION)
    uri = virtual.find()
    argv = ["-m", "pytest", "-s", "-p", "no:cacheprovider", "--benchscale-backend=libvirt", "."]
    # The states that are kept for other tests are of use to this one, too.
    env = {virtual.VARIABLE: uri, "XDG_CACHE_HOME": str(images.cache_directory().parent)}
    process = start(argv, cwd=workplace, env=env)
    try:
        said = wait_for_output(process, "END\n", seconds=300)
        lab, tap = json.loads(said.partition("LINK ")[2].partition(" END")[0])
        ours = {tap, *devices_for(tap)}
        assert len(ours) == 2
        assert ours <= there()
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 20
    while ours & there() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = ours & there()
    remove(uri, lab)
    assert not left


def there() -> set[str]:
    """Return the machine's network devices."""
    return {name for _, name in socket.if_nameindex()}


def remove(uri: str, lab: str) -> None:
    """Remove what else the lab had at the daemon, which a session that is killed leaves there."""
    with virtual.connection(uri) as libvirtd:
        for network in libvirtd.listAllNetworks():
            if lab in network.name():
                network.destroy()
        for pool in libvirtd.listAllStoragePools():
            for volume in pool.listAllVolumes():
                if lab in volume.name():
                    volume.delete()
