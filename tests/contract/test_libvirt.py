"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot, so the parts go by how many they boot: the
first class shares two, the others boot and reboot dozens and run where `BENCHSCALE_TEST_VMS` is `all`.
"""

from __future__ import annotations

import os

import pytest

from pytest_benchscale.testing import (
    BringUpContract,
    CommandContract,
    DeadlineContract,
    FileContract,
    IsolationContract,
    LifecycleContract,
    NetworkContract,
    ProcessContract,
    WaitContract,
)
from tests.daemons.guests import boot_reference

pytestmark = pytest.mark.daemon("libvirt")

IMAGE = boot_reference()
boots_many = pytest.mark.skipif(
    os.environ.get("BENCHSCALE_TEST_VMS") != "all",
    reason="boots dozens of machines, which takes an hour under emulation: BENCHSCALE_TEST_VMS=all",
)


class TestLibvirt(
    WaitContract,
    IsolationContract,
    FileContract,
    ProcessContract,
    DeadlineContract,
    CommandContract,
):
    backend = "libvirt"
    image = IMAGE


@boots_many
class TestLibvirtLifecycle(LifecycleContract):
    backend = "libvirt"
    image = IMAGE


@boots_many
class TestLibvirtNetworks(NetworkContract):
    backend = "libvirt"
    image = IMAGE


@boots_many
class TestLibvirtBringUp(BringUpContract):
    backend = "libvirt"
    image = IMAGE
