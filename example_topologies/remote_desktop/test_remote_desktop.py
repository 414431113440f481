"""A remote-desktop service in a virtual machine: installed, running, and reached over the network."""

import re

import pytest

from pytest_benchscale import Lab

NOT_ON_LIBVIRT = "config.getoption('benchscale_backend') not in (None, 'libvirt')"

pytestmark = [
    pytest.mark.topology("remote_desktop.yaml"),
    pytest.mark.skipif(NOT_ON_LIBVIRT, reason="a service under systemd needs a machine of its own"),
]

ASK = "import socket, sys; print(socket.create_connection(sys.argv[1:]).makefile().readline(), end='')"


async def test_the_service_runs_under_systemd(lab: Lab) -> None:
    desktop = lab["desktop"]
    assert (await desktop.exec("systemctl is-active remote-desk")).stdout == "active\n"
    assert "remote-desk" in (await desktop.exec(["dpkg", "-S", "/usr/bin/remote-desk"])).stdout


async def test_the_user_gets_an_id_from_it(lab: Lab) -> None:
    desktop = lab["desktop"]
    program = (await desktop.exec(["which", "remote-desk"], user="iontest", check=True)).stdout
    identity = await desktop.exec([program.strip(), "--get-id"], user="iontest", check=True)
    assert re.fullmatch(r"\d{9}\n", identity.stdout)


async def test_it_tells_its_id_on_the_network(lab: Lab) -> None:
    desktop = lab["desktop"]
    identity = (await desktop.exec("remote-desk --get-id", check=True)).stdout
    asked = await desktop.exec(["python3", "-c", ASK, str(desktop.address), "21118"], check=True)
    assert asked.stdout == f"remote-desk {identity}"


async def test_the_binaries_are_deployed(lab: Lab) -> None:
    desktop = lab["desktop"]
    modes = await desktop.exec("stat -c '%a %n' /usr/local/bin/ion-*", check=True)
    assert modes.stdout == "755 /usr/local/bin/ion-compositor\n755 /usr/local/bin/ion-portal\n"
    assert re.fullmatch(
        r"portal for \d{9} on wayland-0\n", (await desktop.exec("ion-portal")).stdout
    )


async def test_it_comes_back_after_a_restart(lab: Lab) -> None:
    desktop = lab["desktop"]
    before = (await desktop.exec("remote-desk --get-id", check=True)).stdout
    await desktop.restart()
    await desktop.wait_for_port(21118)
    assert (await desktop.exec("remote-desk --get-id", check=True)).stdout == before
