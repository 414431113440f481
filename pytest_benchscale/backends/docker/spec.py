"""From a node's plan to the container that Docker is asked for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_benchscale.backends.base import InterfacePlan, LabPlan, NodePlan
from pytest_benchscale.backends.docker.ability import Ability
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.network import Wiring
from pytest_benchscale.backends.volumes import volumes_of

__all__ = ["IDLE", "container_config", "container_name", "endpoint", "ports_of", "published"]

IDLE = ("sleep", "2147483647")
"""What runs in a node without a command: 68 years, since not every `sleep` knows "infinity"."""

_INITS = frozenset(
    {"init", "systemd", "openrc-init", "runit-init", "s6-svscan", "tini", "dumb-init"}
)
_PORT = re.compile(
    r"(?:(?:(?P<ip>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<host>[0-9]*):)?"
    r"(?P<node>[0-9]+)(?:/(?P<protocol>[a-z]+))?"
)


def container_name(lab: LabPlan, plan: NodePlan) -> str:
    """Return the name of a node's container; no other lab's has it."""
    return f"benchscale-{lab.lab_id}-{plan.hostname}"


def container_config(
    plan: NodePlan,
    lab: LabPlan,
    wirings: Mapping[str, Wiring],
    image: str,
    labels: Mapping[str, str],
    *,
    ability: Ability,
    dialect: Dialect,
    own_command: bool = False,
    binds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the body of the request that creates a node's container, on its first network.

    With `own_command` an idle node runs what its image says, not `IDLE`. With `binds` its links are made by
    us, and its names are in these (`plugging`).

    Raises:
        LabError: the source of a volume is not there.
    """
    ports = ports_of(plan.spec.ports)
    config: dict[str, Any] = {
        "Image": image,
        "Hostname": plan.hostname,
        "Env": [f"{key}={value}" for key, value in plan.env.items()],
        "Labels": dict(labels),
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": _host_config(plan, lab, ability, dialect),
    }
    config["HostConfig"]["PortBindings"] = ports
    if plan.spec.command:
        config["Cmd"] = list(plan.spec.command)
    elif not own_command:
        config["Entrypoint"], config["Cmd"] = [], list(IDLE)
    if binds is None:
        _attach(config, plan, wirings, ability)
    else:
        config["NetworkDisabled"] = True
        config["HostConfig"]["NetworkMode"] = "none"
        config["HostConfig"]["Binds"] = [*config["HostConfig"].get("Binds", ()), *binds]
    return config


def _attach(
    config: dict[str, Any], plan: NodePlan, wirings: Mapping[str, Wiring], ability: Ability
) -> None:
    """Have Docker attach a container to its first network, and tell it the names of the others."""
    host = config["HostConfig"]
    host["ExtraHosts"] = [f"{name}:{ip}" for name, ips in plan.hosts.items() for ip in ips]
    if not plan.interfaces:
        host["NetworkMode"] = "none"
        return
    if not any(wirings[one.network].plan.internet for one in plan.interfaces):
        # Docker's own name server would pass on what it does not know to those of the host, from where
        # there is a way out. When nobody answers it says nothing at all, which takes 10 s by default.
        host["Dns"] = ["127.0.0.1"]
        host["DnsOptions"] = ["timeout:1", "attempts:1"]
    first, *_ = plan.interfaces
    network = wirings[first.network].docker_name
    # By name: what a container is on before its start is looked up by that.
    host["NetworkMode"] = network
    config["NetworkingConfig"] = {"EndpointsConfig": {network: endpoint(plan, first, ability)}}
    if not ability.endpoint_mac:
        config["MacAddress"] = first.mac


def endpoint(plan: NodePlan, interface: InterfacePlan, ability: Ability) -> dict[str, Any]:
    """Return how a node is attached to a network."""
    address = interface.address.ip
    settings: dict[str, Any] = {
        "Aliases": [plan.name],
        "IPAMConfig": {f"IPv{address.version}Address": str(address)},
    }
    if ability.endpoint_mac:
        settings["MacAddress"] = interface.mac
    return settings


def ports_of(published: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Return Docker's form of published ports, `[[ADDRESS:]HOST:]NODE[/PROTOCOL]`."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in published:
        match = _PORT.fullmatch(text)
        assert match is not None, text  # noqa: S101  the model has checked it
        binding = {"HostIp": (match["ip"] or "").strip("[]"), "HostPort": match["host"] or ""}
        bindings.setdefault(f"{match['node']}/{match['protocol'] or 'tcp'}", []).append(binding)
    return bindings


def published(known: Mapping[str, Any]) -> dict[str, int]:
    """Return a running container's published ports, by its own such as "80/tcp", as its daemon tells."""
    ports = (known.get("NetworkSettings") or {}).get("Ports") or {}
    return {port: int(ends[0]["HostPort"]) for port, ends in ports.items() if ends}


def _host_config(
    plan: NodePlan, lab: LabPlan, ability: Ability, dialect: Dialect
) -> dict[str, Any]:
    spec = plan.spec
    config: dict[str, Any] = {
        "LogConfig": {"Type": dialect.log_driver, "Config": dict(dialect.log_options)},
        "Init": ability.init and not _is_init(spec.command),
    }
    if dialect.added_rights:
        config["CapAdd"] = list(dialect.added_rights)
    if plan.forwards:
        config["Sysctls"] = _forwarding(plan)
    if spec.volumes:
        config["Mounts"], config["Binds"] = _volumes(plan, lab)
    if spec.memory_mb is not None and ability.memory_limit:
        config["Memory"] = spec.memory_mb << 20
        if ability.swap_limit:
            config["MemorySwap"] = spec.memory_mb << 20  # both together: no swap beside it
    # A limit above what there is limits nothing, and Docker refuses it.
    if spec.vcpus is not None and ability.cpu_limit and not 0 < ability.cpus <= spec.vcpus:
        config["NanoCpus"] = int(spec.vcpus * 1_000_000_000)
    return config


def _is_init(command: Sequence[str] | None) -> bool:
    return command is not None and posixpath.basename(command[0]) in _INITS


def _forwarding(plan: NodePlan) -> dict[str, str]:
    versions = {one.address.version for one in plan.interfaces}
    sysctls = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    return {sysctls[version]: "1" for version in sorted(versions)}


def _volumes(plan: NodePlan, lab: LabPlan) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a node's volumes as mounts, and as binds those that are to be relabelled for SELinux."""
    mounts, binds = [], []
    for volume in volumes_of(plan, lab):
        source, target = str(volume.source), volume.target
        if {"z", "Z"}.intersection(volume.modes):
            binds.append(f"{source}:{target}:{','.join(volume.modes)}")
        else:
            mounts.append(
                {
                    "Type": "bind",
                    "Source": source,
                    "Target": target,
                    "ReadOnly": volume.is_read_only,
                }
            )
    return mounts, binds
