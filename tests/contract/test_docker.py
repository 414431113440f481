"""The contract, on containers of a Docker daemon."""

from __future__ import annotations

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.images import reference


@pytest.mark.daemon("docker")
class TestDocker(BackendContract):
    backend = "docker"
    image = reference("debian")
