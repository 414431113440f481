"""The contract, on virtual machines of a libvirt daemon.

An emulated machine takes a minute of a processor to boot, and the contract boots dozens.
"""

from __future__ import annotations

import os

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.guests import boot_reference

pytestmark = [
    pytest.mark.daemon("libvirt"),
    pytest.mark.skipif(
        os.environ.get("BENCHSCALE_TEST_VMS") != "all",
        reason="takes long under emulation: BENCHSCALE_TEST_VMS=all",
    ),
]

IMAGE = boot_reference()


class TestLibvirt(BackendContract):
    backend = "libvirt"
    image = IMAGE
