"""Guests that are not set up as they should be: each boots, which takes a minute where it is emulated."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pytest_benchscale import BenchscaleError, Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.topology.loader import load_text
from tests.daemons.guests import boot_reference
from tests.daemons.needs import boots_more

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio, boots_more]


def machine(**cloud_init: Any) -> str:
    node = {
        "name": "machine",
        "image": boot_reference(),
        "memory_mb": 512,
        "cloud_init": {"user": "iontest", **cloud_init},
    }
    return yaml.safe_dump({"network": {"name": "lan"}, "nodes": [node]})


async def failure(text: str) -> BenchscaleError:
    """Return how a lab fails to come up."""
    with pytest.raises(BenchscaleError) as caught:
        async with Lab.open(load_text(text), backend="libvirt"):
            pytest.fail("the lab came up")
    return caught.value


async def test_a_command_of_the_setup_that_fails_is_told_with_the_console() -> None:
    error = await failure(machine(runcmd=["echo 4242 >&2", "exit 7"]))
    assert "cloud-init failed" in error.brief
    assert "4242" in str(error.details)


async def test_a_full_disk_is_told() -> None:
    error = await failure(machine(runcmd=["dd if=/dev/zero of=/srv/fill bs=1M"]))
    assert "is full" in error.brief
    assert "disk_gb" in str(error)


async def test_a_login_that_is_refused_is_told() -> None:
    denial = {"path": "/etc/ssh/sshd_config.d/00-no.conf", "content": "PermitRootLogin no\n"}
    error = await failure(machine(write_files=[denial]))
    assert "does not let us in" in error.brief
    assert "PermitRootLogin" in str(error)


async def test_a_guest_that_boots_again_in_its_setup_is_waited_for() -> None:
    progress: list[str] = []
    text = machine(runcmd=["echo once >>/srv/boots", "reboot"])
    options = LabOptions(progress=progress.append, prepared=False)
    async with Lab.open(load_text(text), backend="libvirt", options=options) as lab:
        assert await lab["machine"].read_text("/srv/boots") == "once\n"
        assert any("has booted again" in line for line in progress), progress
