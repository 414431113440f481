"""The service on a virtual machine `test1` that is there already, and a network that comes and goes."""

import asyncio
import os
import re

import pytest

from pytest_benchscale import Lab

NOT_ON_LIBVIRT = "config.getoption('benchscale_backend') not in (None, 'libvirt')"

pytestmark = [
    pytest.mark.topology("existing.yaml"),
    pytest.mark.skipif(NOT_ON_LIBVIRT, reason="test1 is a virtual machine"),
]


def networks() -> list[str]:
    """Return the names of the networks that the libvirt daemon has."""
    import libvirt  # noqa: PLC0415  only where these tests run

    daemon = libvirt.open(os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"))
    try:
        return [network.name() for network in daemon.listAllNetworks()]
    finally:
        daemon.close()


async def test_the_machine_lets_us_in(lab: Lab) -> None:
    assert list(lab.nodes) == ["desktop"]
    assert (await lab["desktop"].exec("id -un; uname -n", check=True)).stdout == "iontest\ntest1\n"


async def test_the_program_is_there_and_tells_its_id(lab: Lab) -> None:
    desktop = lab["desktop"]
    program = (await desktop.exec(["which", "remote-desk"], check=True)).stdout.strip()
    assert program == "/usr/bin/remote-desk"
    identity = await desktop.exec([program, "--get-id"], check=True)
    assert re.fullmatch(r"\d{9}\n", identity.stdout)


async def test_it_tells_the_same_id_on_the_network(lab: Lab) -> None:
    desktop = lab["desktop"]
    reader, writer = await asyncio.open_connection(str(desktop.address), 21118)
    try:
        identity = (await desktop.exec("remote-desk --get-id", check=True)).stdout
        assert await reader.readline() == f"remote-desk {identity}".encode()
    finally:
        writer.close()


@pytest.mark.topology("network.yaml")
async def test_a_network_is_there_as_long_as_its_lab(lab: Lab) -> None:
    assert list(lab.networks) == ["office"]
    (network,) = [name for name in networks() if str(lab.lab_id) in name]

    await lab.down()  # as at the end of its tests, and no other test has this one

    assert network not in networks()
