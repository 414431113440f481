"""From a node's plan to a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale.backends.docker.ability import Ability
from pytest_benchscale.backends.docker.dialect import DOCKER
from pytest_benchscale.backends.docker.network import wire
from pytest_benchscale.backends.docker.spec import IDLE, container_config, container_name, ports_of
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.topology.loader import load_text


def config(text: str, directory: Path | None = None, **options: Any) -> dict[str, Any]:
    """Return the container of the first node."""
    topology = load_text(text, path=directory / "t.yaml" if directory else None)
    lab = build_plan(topology, "docker", LabOptions(), lab_id="test0001")
    given = {"ability": Ability(), "dialect": DOCKER, **options}
    return container_config(lab.nodes[0], lab, wire(lab), "image:1", {"l": "1"}, **given)


def host(text: str, directory: Path | None = None, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = config(text, directory, **options)["HostConfig"]
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        ("80", {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ("53:53/udp", {"53/udp": [{"HostIp": "", "HostPort": "53"}]}),
        ("127.0.0.1:8080:80", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}),
        ("[::1]:8080:80", {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        ("127.0.0.1::80", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
    ],
)
def test_ports_are_published_as_written(text, expected):
    assert ports_of([text]) == expected


def test_a_port_may_be_published_twice():
    assert len(ports_of(["8080:80", "8081:80", "80:80/udp"])["80/tcp"]) == 2


def test_an_idle_node_sleeps_and_one_with_a_command_keeps_the_entry_point():
    idle = config("nodes: [{name: a}]")
    assert (idle["Entrypoint"], idle["Cmd"]) == ([], list(IDLE))
    busy = config("nodes: [{name: a, command: [serve, '80']}]")
    assert "Entrypoint" not in busy
    assert busy["Cmd"] == ["serve", "80"]
    own = config("nodes: [{name: a}]", own_command=True)
    assert not own.keys() & {"Entrypoint", "Cmd"}


def test_every_node_gets_an_init_unless_it_is_one():
    assert host("nodes: [{name: a}]")["Init"] is True
    assert host("nodes: [{name: a, command: [/sbin/init]}]")["Init"] is False
    assert host("nodes: [{name: a}]", ability=Ability(init=False))["Init"] is False


def test_a_container_is_made_on_its_first_network_by_name():
    made = config("{network: {name: lan, subnet: 10.1.0.0/24}, nodes: [{name: a}]}")
    network = made["HostConfig"]["NetworkMode"]
    assert network == "benchscale-test0001-0-lan"
    (endpoint,) = made["NetworkingConfig"]["EndpointsConfig"].values()
    assert endpoint == {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.1.0.2"}}
    assert made["MacAddress"]


def test_newer_daemons_have_a_mac_address_for_each_endpoint():
    text = "{network: {name: lan}, nodes: [{name: a}]}"
    made = config(text, ability=Ability(endpoint_mac=True))
    (endpoint,) = made["NetworkingConfig"]["EndpointsConfig"].values()
    assert endpoint["MacAddress"].count(":") == 5
    assert "MacAddress" not in made


def test_a_node_without_networks_has_none():
    assert host("nodes: [{name: a, networks: []}]")["NetworkMode"] == "none"


def test_every_address_of_every_node_is_in_its_hosts():
    text = """
        networks: [{name: lan, subnet: 10.1.0.0/24}, {name: six, subnet: "fd00:1::/64"}]
        nodes: [{name: a}, {name: b}]
        """
    assert host(text)["ExtraHosts"] == [
        "a:10.1.0.2",
        "a:fd00:1::2",
        "b:10.1.0.3",
        "b:fd00:1::3",
    ]


def test_a_container_whose_links_are_ours_has_no_network_of_the_daemons(tmp_path):
    (tmp_path / "z").mkdir()
    text = "{network: {name: lan}, nodes: [{name: a, volumes: ['./z:/z:z']}]}"
    made = config(text, tmp_path, binds=["/x/hosts:/etc/hosts:z"])
    assert made["NetworkDisabled"] is True
    assert made["HostConfig"]["NetworkMode"] == "none"
    assert made["HostConfig"]["Binds"] == [f"{tmp_path}/z:/z:z", "/x/hosts:/etc/hosts:z"]
    assert not made.keys() & {"NetworkingConfig", "MacAddress"}
    assert not made["HostConfig"].keys() & {"ExtraHosts", "Dns"}


def test_names_that_nobody_has_are_not_asked_for_outside():
    inside = host("{network: {name: lan}, nodes: [{name: a}]}")
    assert inside["Dns"] == ["127.0.0.1"]
    assert "Dns" not in host("{network: {name: lan, internet: true}, nodes: [{name: a}]}")


def test_limits_are_set_as_far_as_the_daemon_can():
    text = "nodes: [{name: a, memory_mb: 64, vcpus: 0.5}]"
    limits = host(text)
    assert (limits["Memory"], limits["MemorySwap"]) == (64 << 20, 64 << 20)
    assert limits["NanoCpus"] == 500_000_000
    cannot = Ability(memory_limit=False, cpu_limit=False)
    assert not host(text, ability=cannot).keys() & {"Memory", "MemorySwap", "NanoCpus"}
    assert "MemorySwap" not in host(text, ability=Ability(swap_limit=False))


def test_more_processors_than_there_are_limit_nothing():
    text = "nodes: [{name: a, vcpus: 4}]"
    assert "NanoCpus" not in host(text, ability=Ability(cpus=4))
    assert host(text, ability=Ability(cpus=8))["NanoCpus"] == 4_000_000_000


def test_volumes_are_relative_to_the_file_and_must_be_there(tmp_path):
    (tmp_path / "data").mkdir()
    made = host(
        "nodes: [{name: a, volumes: ['./data:/srv', 'data:/etc/x:ro', './data:/z:z']}]", tmp_path
    )
    source = str(tmp_path / "data")
    assert made["Mounts"] == [
        {"Type": "bind", "Source": source, "Target": "/srv", "ReadOnly": False},
        {"Type": "bind", "Source": source, "Target": "/etc/x", "ReadOnly": True},
    ]
    assert made["Binds"] == [f"{source}:/z:z"]
    with pytest.raises(LabError, match="absent"):
        host("nodes: [{name: a, volumes: ['./absent:/srv']}]", tmp_path)


def test_a_router_forwards():
    text = """
        network: {name: n, subnet: 10.1.0.0/24, gateway: 10.1.0.1}
        nodes: [{name: r, networks: [{name: n, address: 10.1.0.1}]}]
        """
    assert host(text)["Sysctls"] == {"net.ipv4.ip_forward": "1"}


def test_names_of_any_length_make_short_container_names():
    topology = load_text(f"nodes: [{{name: {'n' * 300}}}]")
    lab = build_plan(topology, "docker", LabOptions(), lab_id="test0001")
    assert len(container_name(lab, lab.nodes[0])) < 90
