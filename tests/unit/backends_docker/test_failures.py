"""What a daemon's refusals mean."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_benchscale.backends.docker import failures
from pytest_benchscale.backends.docker.engine import ApiError
from pytest_benchscale.errors import LabError

ALLOCATED = (
    "driver failed programming external connectivity on endpoint benchscale-x-a (0c1d): "
    "Bind for 0.0.0.0:8080 failed: port is already allocated"
)
IN_USE = (
    "driver failed programming external connectivity on endpoint x (0c1d): Error starting userland "
    "proxy: listen tcp4 0.0.0.0:8081: bind: address already in use"
)
NEWER = (
    "failed to set up container networking: driver failed programming external connectivity on "
    "endpoint x: failed to bind host port 0.0.0.0:8082/tcp: address already in use"
)


@pytest.mark.parametrize(("text", "port"), [(ALLOCATED, 8080), (IN_USE, 8081), (NEWER, 8082)])
def test_a_taken_port_is_found_in_what_the_daemon_says(text, port):
    assert failures.taken_port(ApiError(500, text)) == port


def test_other_failures_are_about_no_port():
    assert failures.taken_port(ApiError(500, "OCI runtime create failed: 8080")) is None


def test_the_container_that_has_a_port_is_named():
    containers: list[dict[str, Any]] = [
        {"Id": "1", "Names": ["/mine"], "Ports": [{"PublicPort": 8080}]},
        {"Id": "2", "Names": ["/other"], "Ports": [{"PrivatePort": 80}, {"PublicPort": 8081}]},
        {"Id": "3", "Names": ["/third"], "Ports": None},
    ]
    assert "'other'" in failures.port_holder(8081, containers, own=None)
    assert "another program" in failures.port_holder(8080, containers, own="1")


def test_a_missing_init_is_told_from_a_missing_command():
    missing = 'exec: "docker-init": executable file not found in $PATH: unknown'
    assert failures.lacks_init(ApiError(400, missing))
    assert not failures.lacks_init(ApiError(400, missing.replace("docker-init", "serve")))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('exec: "serve": executable file not found in $PATH: unknown', "command"),
        (
            'Conflict. The container name "/x" is already in use by container "0c"',
            "other container",
        ),
        ("No command specified", "command"),
        ("Minimum memory limit allowed is 6MB", "memory_mb"),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", "vcpus"),
        ("write /x: no space left on device", "disk"),
    ],
)
def test_a_refusal_comes_with_advice(text, advice):
    error = failures.explain(ApiError(409, text), "it failed", "create", "a")
    assert advice in str(error.resolution)
    assert (error.node, error.step) == ("a", "create")
    assert text in error.brief


def test_a_refusal_in_a_block_becomes_a_lab_error():
    with (
        pytest.raises(LabError, match="it failed: no") as caught,
        failures.told("it failed", "open"),
    ):
        raise ApiError(500, "no")
    assert isinstance(caught.value.__cause__, ApiError)
