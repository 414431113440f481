"""The contract, on virtual machines of a libvirt daemon."""

from __future__ import annotations

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.guests import guest_path


@pytest.mark.daemon("libvirt")
class TestLibvirt(BackendContract):
    backend = "libvirt"
    image = str(guest_path())
