"""The contract on images whose shell cannot be made to wait: each command is an exec session of its own."""

from __future__ import annotations

import pytest

from pytest_benchscale.testing import BackendContract
from tests.daemons.images import reference

AMBIGUOUS = {
    "test_every_exit_code_is_the_true_one": "a daemon tells death by signal N and exit code 128+N alike"
}


@pytest.mark.daemon("docker")
class TestDockerPlain(BackendContract):
    backend = "docker"
    image = reference("plain")
    known_failures = AMBIGUOUS


@pytest.mark.daemon("podman")
class TestPodmanPlain(BackendContract):
    backend = "podman"
    image = reference("plain")
    known_failures = AMBIGUOUS
