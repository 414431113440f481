"""What cloud-init is told of a node."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
import yaml

from pytest_benchscale.backends.base import InterfacePlan, NodePlan, Route
from pytest_benchscale.backends.libvirt.cloud_init import (
    MANAGEMENT_DEVICE,
    HostKey,
    Management,
    documents,
)
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.model import NodeSpec

MANAGEMENT = Management("52:54:00:00:00:01")
SESSION = "ssh-ed25519 SESSION benchscale"
LAN = InterfacePlan("lan", "eth0", "02:00:00:00:00:AA", ip_interface("10.1.0.2/24"))
SIX = InterfacePlan("six", "eth1", "02:00:00:00:00:bb", ip_interface("fd00:1::2/64"))


def _plan(cloud_init: dict[str, Any] | None = None, **changes: Any) -> NodePlan:
    spec = NodeSpec.model_validate({"name": "web", "cloud_init": cloud_init})
    values: dict[str, Any] = {
        "name": "web",
        "hostname": "web",
        "image": "image",
        "interfaces": (LAN, SIX),
        "routes": (),
        "hosts": {"web": (ip_address("10.1.0.2"),), "db": (ip_address("10.1.0.3"),)},
        "forwards": False,
        "env": {},
        "spec": spec,
    }
    return NodePlan(**values | changes)


def _documents(plan: NodePlan, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "instance_id": "i-1",
        "session_key": SESSION,
        "management": MANAGEMENT,
    }
    files = documents(plan, **options | changes)
    assert list(files) == ["user-data", "meta-data", "network-config"]
    assert files["user-data"].startswith(b"#cloud-config\n")
    return {name: yaml.safe_load(content) for name, content in files.items()}


def _user_data(cloud_init: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = _documents(_plan(cloud_init, **changes))["user-data"]
    return data


def _files(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in data["write_files"]}


def _ethernets(plan: NodePlan, **changes: Any) -> dict[str, Any]:
    config = _documents(plan, **changes)["network-config"]
    assert config["version"] == 2
    ethernets: dict[str, Any] = config["ethernets"]
    return ethernets


def test_the_session_may_log_in_as_root_and_the_machine_knows_its_name() -> None:
    plan = _plan(hostname="web.lab")
    told = _documents(plan)
    data = told["user-data"]
    assert data["disable_root"] is False
    assert data["ssh_authorized_keys"] == [SESSION]
    assert data["hostname"] == data["fqdn"] == "web.lab"
    assert data["prefer_fqdn_over_hostname"] is True
    assert told["meta-data"] == {"instance-id": "i-1", "local-hostname": "web.lab"}
    assert not {"users", "packages", "runcmd", "bootcmd", "ssh_pwauth", "ssh_keys"} & set(data)


@pytest.mark.parametrize(
    ("public", "kind"),
    [
        ("ssh-ed25519 AAAA", "ed25519"),
        ("ssh-rsa AAAA", "rsa"),
        ("ecdsa-sha2-nistp256 AAAA", "ecdsa"),
    ],
)
def test_the_host_key_is_the_one_that_is_pinned(public: str, kind: str) -> None:
    key = HostKey("-----BEGIN-----", f"{public} host\n")
    data = _documents(_plan(), host_key=key)["user-data"]
    assert data["ssh_deletekeys"] is True
    assert data["ssh_keys"] == {
        f"{kind}_private": "-----BEGIN-----\n",
        f"{kind}_public": f"{public} host",
    }
    assert "BEGIN" not in repr(key)


def test_a_declared_user_may_do_all_and_log_in_as_declared() -> None:
    password = """ p: #'"é\\ """
    data = _user_data(
        {"user": "iontest", "password": password, "ssh_authorized_keys": ["ssh-rsa U"]}
    )
    assert data["ssh_pwauth"] is True
    assert data["users"] == [
        {
            "name": "iontest",
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": False,
            "plain_text_passwd": password,
            "ssh_authorized_keys": ["ssh-rsa U"],
        }
    ]
    assert data["ssh_authorized_keys"] == [SESSION]


def test_without_a_password_none_can_be_used() -> None:
    data = _user_data({"user": "iontest"})
    assert "ssh_pwauth" not in data
    assert data["users"][0].keys() == {"name", "shell", "sudo"}


def test_keys_and_a_password_without_a_user_are_for_the_images_own() -> None:
    data = _user_data({"password": "secret", "ssh_authorized_keys": ["ssh-rsa U"]})
    assert data["password"] == "secret"
    assert data["chpasswd"] == {"expire": False}
    assert data["ssh_authorized_keys"] == [SESSION, "ssh-rsa U"]


def test_root_with_a_password_may_log_in_with_it() -> None:
    data = _user_data({"user": "root", "password": "secret"})
    assert "sudo" not in data["users"][0]
    [path] = [path for path in _files(data) if "sshd_config.d" in path]
    assert _files(data)[path]["content"] == "PermitRootLogin yes\n"


def test_a_password_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(LabError, match=r"node 'web': the password .* has a line break") as caught:
        _user_data({"user": "iontest", "password": "top\nsecret"})
    assert "secret" not in str(caught.value)


def test_packages_commands_and_files_are_told_as_they_are_declared() -> None:
    written = {
        "path": "/etc/x",
        "content": "ä\n\t\x07\u2028 'q'",
        "permissions": "0600",
        "owner": "www-data:www-data",
        "encoding": "b64",
        "append": True,
        "defer": False,
    }
    data = _user_data(
        {
            "packages": ["nginx", "curl"],
            "runcmd": ["echo 'a: b' > /x", ["touch", "/a b"]],
            "write_files": [written],
        }
    )
    assert data["package_update"] is True
    assert data["packages"] == ["nginx", "curl"]
    assert data["runcmd"] == ["echo 'a: b' > /x", ["touch", "/a b"]]
    assert data["write_files"][-1] == written


def test_a_file_of_the_declared_user_waits_for_that_user() -> None:
    files = [
        {"path": "/a", "owner": "me:me"},
        {"path": "/b", "owner": "me", "defer": False},
        {"path": "/c", "owner": "root"},
    ]
    written = _files(_user_data({"user": "me", "write_files": files}))
    assert [written[path].get("defer") for path in ("/a", "/b", "/c")] == [True, False, None]


def test_every_node_is_in_the_hosts_file_under_all_its_addresses() -> None:
    hosts: dict[str, tuple[IpAddress, ...]] = {
        "Web!": (ip_address("10.1.0.2"), ip_address("fd00:1::2")),
        "db": (ip_address("10.1.0.3"),),
    }
    data = _user_data(name="Web!", hostname="web-1", hosts=hosts)
    assert data["manage_etc_hosts"] is False
    lines = _files(data)["/etc/hosts"]["content"].splitlines()
    assert lines[:2] == ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    assert lines[-3:] == ["10.1.0.2 Web! web-1", "fd00:1::2 Web! web-1", "10.1.0.3 db"]


def test_a_node_on_no_network_knows_its_own_name() -> None:
    data = _user_data(hosts={}, interfaces=())
    assert _files(data)["/etc/hosts"]["content"].endswith("127.0.1.1 web\n")


def test_the_environment_is_there_for_other_logins_too() -> None:
    env = {"A": "b c", "QUOTED": 'say "hi"', "LINES": "a\nb", "HASH": "a#b"}
    file = _files(_user_data(env=env))["/etc/environment"]
    assert file["append"] is True
    assert file["content"] == 'A="b c"\nQUOTED="say "hi""\n'


def test_a_router_forwards_both_families_at_each_boot() -> None:
    data = _user_data(forwards=True)
    [file] = [one for path, one in _files(data).items() if "sysctl.d" in path]
    assert file["content"].count("forward") == 2
    assert "ip_forward" in data["bootcmd"][0][2]
    assert "ipv6/conf/all/forwarding" in data["bootcmd"][0][2]


def test_interfaces_are_found_by_mac_and_have_their_planned_names_and_addresses() -> None:
    ethernets = _ethernets(_plan())
    assert list(ethernets) == [MANAGEMENT_DEVICE, "eth0", "eth1"]
    assert ethernets["eth0"] == {
        "match": {"macaddress": "02:00:00:00:00:aa"},
        "set-name": "eth0",
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": ["10.1.0.2/24"],
        "optional": True,
    }
    assert ethernets["eth1"]["addresses"] == ["fd00:1::2/64"]


def test_routes_are_on_the_interface_that_reaches_their_router() -> None:
    routes = (
        Route(ip_network("0.0.0.0/0"), ip_address("10.1.0.1")),
        Route(ip_network("10.2.0.0/16"), ip_address("10.1.0.7")),
        Route(ip_network("fd00:2::/64"), ip_address("fd00:1::1")),
    )
    plan = _plan(routes=routes)
    ethernets = _ethernets(plan)
    assert ethernets["eth0"]["routes"] == [
        {"to": "0.0.0.0/0", "via": "10.1.0.1"},
        {"to": "10.2.0.0/16", "via": "10.1.0.7"},
    ]
    assert ethernets["eth1"]["routes"] == [{"to": "fd00:2::/64", "via": "fd00:1::1"}]
    # ifupdown needs them said once more.
    [[*_, script]] = _documents(plan)["user-data"]["bootcmd"]
    assert "ip route replace fd00:2::/64 via fd00:1::1" in script


def test_the_management_interface_has_a_default_route_only_as_the_only_way_out() -> None:
    management = Management(MANAGEMENT.mac, way_out=True)
    default = (Route(ip_network("0.0.0.0/0"), ip_address("10.1.0.1")),)
    no_routes = {"use-routes": False}
    assert _ethernets(_plan())["mgmt0"]["dhcp4-overrides"] == no_routes
    assert "dhcp4-overrides" not in _ethernets(_plan(), management=management)["mgmt0"]
    with_default = _ethernets(_plan(routes=default), management=management)
    assert with_default["mgmt0"]["dhcp4-overrides"] == no_routes


def test_a_management_interface_with_an_address_asks_nobody() -> None:
    address, gateway = ip_interface("192.168.99.5/24"), ip_address("192.168.99.1")
    quiet = Management(MANAGEMENT.mac, address, gateway)
    ethernets = _ethernets(_plan(), management=quiet)
    assert ethernets["mgmt0"]["addresses"] == ["192.168.99.5/24"]
    assert ethernets["mgmt0"]["dhcp4"] is False
    assert "routes" not in ethernets["mgmt0"]
    way_out = Management(MANAGEMENT.mac, address, gateway, way_out=True)
    ethernets = _ethernets(_plan(), management=way_out)
    assert ethernets["mgmt0"]["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.99.1"}]
    six_only = (Route(ip_network("::/0"), ip_address("fd00:1::1")),)
    assert "routes" in _ethernets(_plan(routes=six_only), management=way_out)["mgmt0"]


def test_name_servers_are_on_the_interface_that_reaches_them() -> None:
    servers = (ip_address("10.1.0.1"), ip_address("192.168.99.1"))
    told = _documents(_plan(), nameservers=servers)
    ethernets = told["network-config"]["ethernets"]
    assert ethernets["eth0"]["nameservers"] == {"addresses": ["10.1.0.1"]}
    assert ethernets["mgmt0"]["nameservers"] == {"addresses": ["192.168.99.1"]}
    # What sets the network up does not tell the resolver everywhere.
    [[*_, script]] = told["user-data"]["bootcmd"]
    assert "nameserver 10.1.0.1\nnameserver 192.168.99.1\nEND" in script
