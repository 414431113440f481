"""What a daemon's URI says of the way to its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_benchscale.backends.libvirt.remote import is_by_ssh, login_at, way_to
from pytest_benchscale.transports.ssh.login import HostKeys


@pytest.mark.parametrize(
    ("uri", "by_ssh"),
    [
        ("qemu+ssh://host/system", True),
        ("qemu+libssh://host/system", True),
        ("qemu+libssh2://host/system", True),
        ("qemu+ssh:///system", True),
        ("qemu:///system", False),
        ("qemu+unix:///system", False),
        ("qemu://host/system", False),
        ("qemu+tls://host/system", False),
        ("qemu+tcp://host/system", False),
    ],
)
def test_only_a_machine_that_is_reached_by_ssh_has_a_way(uri: str, by_ssh: bool) -> None:
    assert is_by_ssh(uri) is by_ssh
    assert (way_to(uri) is not None) is by_ssh


def test_host_port_and_user_are_those_of_the_uri() -> None:
    assert str(login_at("qemu+ssh://host/system")) == "host:22"
    assert str(login_at("qemu+ssh://you@host:2222/system")) == "you@host:2222"
    assert login_at("qemu+ssh://[::1]:2222/system").host == "::1"
    assert login_at("qemu+ssh:///system").host == "localhost"


def test_its_key_is_that_of_the_uri() -> None:
    assert login_at("qemu+ssh://host/system").key is None
    assert login_at("qemu+ssh://host/system?keyfile=/a%20b").key == Path("/a b")


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ("", HostKeys()),
        ("?known_hosts=/x", HostKeys(path=Path("/x"))),
        ("?known_hosts=/x&known_hosts_verify=normal", HostKeys(path=Path("/x"))),
        ("?known_hosts_verify=ignore", HostKeys(unchecked=True)),
        ("?socket=/y&no_verify=1", HostKeys(unchecked=True)),
        ("?no_verify=0", HostKeys()),
    ],
)
def test_its_host_key_is_checked_as_the_uri_says(said: str, keys: HostKeys) -> None:
    assert login_at(f"qemu+ssh://host/system{said}").host_keys == keys
