"""The contract on images whose shell cannot be made to wait: each command is an exec session of its own."""

from __future__ import annotations

import pytest

from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing import BackendContract
from tests.daemons.images import reference
from tests.daemons.needs import ALL_IS_ASKED_FOR

AMBIGUOUS = {
    "test_every_exit_code_is_the_true_one": "a daemon tells death by signal N and exit code 128+N alike"
}


class PlainContract(BackendContract):
    """The whole contract; the end of a command is asked for, so what a child adds at once counts as its."""

    known_failures = AMBIGUOUS

    async def test_a_background_child_does_not_leak_into_the_next_result(self, node: Node) -> None:
        first = await node.exec("(sleep 4; echo late; echo late >&2) & echo first")
        second = await node.exec("sleep 5; echo second")
        assert (first.stdout, first.stderr) == ("first\n", "")
        assert (second.stdout, second.stderr) == ("second\n", "")


@pytest.mark.daemon("docker")
class TestDockerPlain(PlainContract):
    backend = "docker"
    image = reference("plain")


@pytest.mark.skipif(not ALL_IS_ASKED_FOR, reason="one daemon is enough: BENCHSCALE_TEST_ALL=yes")
@pytest.mark.daemon("podman")
class TestPodmanPlain(PlainContract):
    backend = "podman"
    image = reference("plain")
