"""What cloud-init is told on the first boot of a guest: user-data, meta-data and network-config.

Written for cloud-init 20 and later, and for every way in which it sets networks up: netplan,
systemd-networkd, NetworkManager and ifupdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import yaml

from pytest_benchscale.backends.base import NodePlan, Route
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.addressing import IpAddress, IpInterface
from pytest_benchscale.topology.model import CloudInit, WriteFile

__all__ = ["MANAGEMENT_DEVICE", "HostKey", "Management", "documents"]

MANAGEMENT_DEVICE = "mgmt0"

_ROOT = "root"
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_LOCAL_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
_FORWARDING = "net.ipv4.ip_forward=1\nnet.ipv6.conf.all.forwarding=1\n"
_FORWARD_NOW = """\
echo 1 >/proc/sys/net/ipv4/ip_forward
if [ -e /proc/sys/net/ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; fi
"""
# Without resolvconf, ifupdown tells the resolver nothing; nor does networkd without systemd-resolved.
_RESOLVER = """\
at=/etc/resolv.conf
if command -v ifup >/dev/null; then
    command -v resolvconf >/dev/null && exit 0
elif [ -e $at ] || [ -L $at ]; then
    exit 0
fi
cat >$at <<END
{told}END
"""
# pam_env takes a line as it is, but for quotes around the value and what follows a #.
_UNSPEAKABLE = re.compile(r"[\n\r#\0]")


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key that the guest's sshd shows: both halves in OpenSSH's format."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True, slots=True)
class Management:
    """The interface by which we reach the guest, named `mgmt0` there.

    Without `address` it asks by DHCP. `way_out` lets it have the default route, by `gateway` where the
    address is given; else it has none where the guest's network tools can refuse one. ifupdown cannot: its
    DHCP server must not offer one.
    """

    mac: str
    address: IpInterface | None = None
    gateway: IpAddress | None = None
    way_out: bool = False


def documents(
    plan: NodePlan,
    *,
    instance_id: str,
    session_key: str,
    management: Management,
    host_key: HostKey | None = None,
    nameservers: Sequence[IpAddress] = (),
) -> Mapping[str, bytes]:
    """Return the files of a guest's seed by name: user-data, meta-data, network-config.

    `session_key` is a public key that may log in as root. A new `instance_id` has the guest set up anew.

    Raises:
        LabError: what is declared cannot be told to cloud-init.
    """
    network = _network_config(plan, management, nameservers)
    user_data = _user_data(plan, session_key, host_key)
    if boot := _at_each_boot(plan, management, nameservers):
        user_data["bootcmd"] = boot
    return {
        "user-data": b"#cloud-config\n" + _yaml(user_data),
        "meta-data": _yaml({"instance-id": instance_id, "local-hostname": plan.hostname}),
        "network-config": _yaml(network),
    }


def _yaml(document: Mapping[str, Any]) -> bytes:
    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=2**20)
    return text.encode()


# --- user-data ---


def _user_data(plan: NodePlan, session_key: str, host_key: HostKey | None) -> dict[str, Any]:
    declared = plan.spec.cloud_init or CloudInit()
    named = declared.user is not None
    document: dict[str, Any] = {
        "hostname": plan.hostname,
        # A host name with dots in it is one name here, not a name and its domain.
        "fqdn": plan.hostname,
        "prefer_fqdn_over_hostname": True,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_authorized_keys": [session_key, *([] if named else declared.ssh_authorized_keys)],
        # The key is known; printing it costs a slow guest half a second.
        "ssh": {"emit_keys_to_console": False},
        "no_ssh_fingerprints": True,
    }
    if host_key is not None:
        document |= {"ssh_deletekeys": True, "ssh_keys": _host_keys(host_key)}
    document |= _user(plan.name, declared)
    files = [*_own_files(plan), *(_file(one, declared.user) for one in declared.write_files)]
    document["write_files"] = files
    if declared.packages:
        document |= {"package_update": True, "packages": list(declared.packages)}
    if declared.runcmd:
        document["runcmd"] = [one if isinstance(one, str) else list(one) for one in declared.runcmd]
    return document


def _host_keys(key: HostKey) -> dict[str, str]:
    algorithm = key.public.split(maxsplit=1)[0]
    kind = algorithm.removeprefix("ssh-").removeprefix("ecdsa-sha2-").partition("-")[0]
    kind = "ecdsa" if kind.startswith("nistp") else kind
    private = key.private if key.private.endswith("\n") else f"{key.private}\n"
    return {f"{kind}_private": private, f"{kind}_public": key.public.strip()}


def _user(node: str, declared: CloudInit) -> dict[str, Any]:
    """Return what is said of the login user and of passwords."""
    password = declared.password
    if password is not None and ("\n" in password or "\r" in password):
        raise LabError(
            f"node {node!r}: the password under `cloud_init:` has a line break, which no guest takes",
            node=node,
            step="cloud-init",
            resolution="give a password of one line",
        )
    document: dict[str, Any] = {"ssh_pwauth": True} if password else {}
    if declared.user is None:  # the image's own user
        if password:
            document |= {"password": password, "chpasswd": {"expire": False}}
        return document
    user: dict[str, Any] = {"name": declared.user, "shell": "/bin/bash"}
    if declared.user != _ROOT:
        user["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if password:
        user |= {"lock_passwd": False, "plain_text_passwd": password}
    if declared.ssh_authorized_keys:
        user["ssh_authorized_keys"] = list(declared.ssh_authorized_keys)
    return document | {"users": [user]}


def _own_files(plan: NodePlan) -> list[dict[str, Any]]:
    files = [_text_file("/etc/hosts", _hosts_file(plan))]
    if environment := _environment(plan.env):
        files.append(_text_file("/etc/environment", environment) | {"append": True})
    if plan.forwards:
        files.append(_text_file("/etc/sysctl.d/90-benchscale.conf", _FORWARDING))
    declared = plan.spec.cloud_init
    if declared is not None and declared.user == _ROOT and declared.password:
        path = "/etc/ssh/sshd_config.d/10-benchscale.conf"  # before the image's own: the first one wins
        files.append(_text_file(path, "PermitRootLogin yes\n"))
    return files


def _text_file(path: str, content: str) -> dict[str, Any]:
    return {"path": path, "content": content, "permissions": "0644"}


def _hosts_file(plan: NodePlan) -> str:
    lines = []
    for name, addresses in plan.hosts.items():
        names = name
        if name == plan.name and name != plan.hostname:
            names = f"{name} {plan.hostname}"
        lines += [f"{address} {names}\n" for address in addresses]
    if plan.name not in plan.hosts:  # on no network, but it must know its own name
        lines.append(f"127.0.1.1 {plan.hostname}\n")
    return _LOCAL_HOSTS + "".join(lines)


def _environment(env: Mapping[str, str]) -> str:
    """Return lines for /etc/environment, for logins that are not ours; ours are told each time.

    That file has no way to say a line break or a #, so what has one is left out.
    """
    return "".join(
        f'{name}="{value}"\n'
        for name, value in env.items()
        if not _UNSPEAKABLE.search(name + value)
    )


def _file(declared: WriteFile, user: str | None) -> dict[str, Any]:
    """Return a declared file in cloud-init's words, which are the same."""
    document: dict[str, Any] = declared.model_dump(exclude_none=True)
    owner = (declared.owner or "").partition(":")[0]
    if declared.defer is None and user not in (None, _ROOT) and owner == user:
        document["defer"] = True  # until that user is there
    return document


# --- network ---


def _network_config(
    plan: NodePlan, management: Management, nameservers: Sequence[IpAddress]
) -> dict[str, Any]:
    """Return the network configuration, version 2, which is netplan's."""
    devices = {MANAGEMENT_DEVICE: _management_device(plan, management)}
    for interface in plan.interfaces:
        device = devices[interface.device] = _static(
            interface.mac, interface.device, interface.address
        )
        device["optional"] = True  # a link without its peer does not hold the boot up
        if routes := [one for one in plan.routes if one.via in interface.address.network]:
            device["routes"] = _routes(routes)
    for nameserver in nameservers:
        near = (one.device for one in plan.interfaces if nameserver in one.address.network)
        device = devices[next(near, MANAGEMENT_DEVICE)]
        device.setdefault("nameservers", {"addresses": []})["addresses"].append(str(nameserver))
    return {"version": 2, "ethernets": devices}


def _management_device(plan: NodePlan, management: Management) -> dict[str, Any]:
    if management.address is not None:
        device = _static(management.mac, MANAGEMENT_DEVICE, management.address)
        if default := _management_default(plan, management):
            device["routes"] = _routes(default)
        return device
    is_way_out = management.way_out and not _has_default(plan, 4)
    device = _device(management.mac, MANAGEMENT_DEVICE) | {"dhcp4": True, "dhcp6": False}
    if not is_way_out:
        device["dhcp4-overrides"] = {"use-routes": False}
    return device


def _static(mac: str, name: str, address: IpInterface) -> dict[str, Any]:
    """Return a device with one address: neither DHCP nor a router's advertisement gives it more."""
    return _device(mac, name) | {
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": [address.with_prefixlen],
    }


def _device(mac: str, name: str) -> dict[str, Any]:
    return {"match": {"macaddress": mac.lower()}, "set-name": name}


def _routes(routes: Sequence[Route]) -> list[dict[str, str]]:
    return [{"to": str(one.destination), "via": str(one.via)} for one in routes]


def _management_default(plan: NodePlan, management: Management) -> list[Route]:
    """Return the default route by way of the management interface, where nothing else is the way out."""
    via = management.gateway
    if not management.way_out or via is None or _has_default(plan, via.version):
        return []
    return [Route(ip_network(_EVERYWHERE[via.version]), via)]


def _has_default(plan: NodePlan, version: int) -> bool:
    return any(
        one.destination.version == version and one.destination.prefixlen == 0 for one in plan.routes
    )


def _at_each_boot(
    plan: NodePlan, management: Management, nameservers: Sequence[IpAddress]
) -> list[list[str]]:
    """Return commands for what is not kept, or not done by all tools that set networks up."""
    scripts = [_FORWARD_NOW] if plan.forwards else []
    if routes := [*plan.routes, *_management_default(plan, management)]:
        # What cloud-init has ifupdown do for a route takes the old `route`, and fails without a word.
        lines = [f"ip route replace {one.destination} via {one.via}" for one in routes]
        scripts.append("\n".join(["command -v ifup >/dev/null || exit 0", *lines]))
    if nameservers:
        told = "".join(f"nameserver {one}\n" for one in nameservers)
        scripts.append(_RESOLVER.format(told=told))
    return [["sh", "-c", script] for script in scripts]
