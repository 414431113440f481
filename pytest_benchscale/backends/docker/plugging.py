"""Links of containers that we make ourselves, since Docker takes three times as long for them.

For every container that it attaches to a network, Docker runs itself twice more: as a hook of the start,
which hands it the network namespace, and to have its name server answer in there (libnetwork's `setkey` and
`setup-resolver`). A container whose network is disabled has a namespace all the same; one message to the
kernel puts the end of a veth pair into it, and the other one on the bridge of Docker's network. Its names
are in a hosts file of ours. Whatever is done to the links of containers is done to these alike: they are in
the container's namespace, and go with it.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pytest_benchscale.backends.base import InterfacePlan, LabPlan, NodePlan, Route
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.names import NO_RESOLVER, hosts_file
from pytest_benchscale.network.netlink import Netlink, configure
from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["binds", "chosen", "plug", "shares_this_machine"]

_ASKING_SECONDS = 5.0
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_NAME_FILES = ("/etc/hosts", "/etc/resolv.conf")
_NAMESPACES = ("net", "mnt", "pid")
_SYSCTLS = Path("/proc/sys/net/ipv6/conf")


def shares_this_machine(address: DaemonAddress) -> bool:
    """Return whether a daemon sees the networks, files and processes that this process sees, as root. Blocks.

    It does not when it, or this process, is in a container or a machine of its own.
    """
    if not address.is_local or os.geteuid() != 0 or not hasattr(socket, "SO_PEERCRED"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.settimeout(_ASKING_SECONDS)
            asker.connect(address.path)
            told = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, *_ = _CREDENTIALS.unpack(told)
        theirs, ours = (Path(f"/proc/{one}/ns") for one in (pid, "self"))
        return all((theirs / kind).samefile(ours / kind) for kind in _NAMESPACES)
    except OSError:  # its processes are not among ours
        return False


def chosen(lab: LabPlan) -> frozenset[str]:
    """Return the names of the nodes whose links we make; of the others Docker does.

    They are those that only wait for commands: what a container starts with would not find its network yet.
    What needs more of Docker is left to it, which are ways to the outside, published ports, and name files
    of the user's own. And so is the first node of each network: in Docker's books that is in use then, and
    not to be pruned.
    """
    outside = {network.name for network in lab.networks if network.internet}
    first: dict[str, str] = {}
    for node in lab.nodes:
        for interface in node.interfaces:
            first.setdefault(interface.network, node.name)
    return frozenset(
        node.name
        for node in lab.nodes
        if node.interfaces
        and not node.spec.command
        and not node.spec.ports
        and not any(name in volume for name in _NAME_FILES for volume in node.spec.volumes)
        and outside.isdisjoint(interface.network for interface in node.interfaces)
        and node.name not in first.values()
    )


def binds(plan: NodePlan, files: Path) -> list[str]:
    """Write the files by which a node finds the others; return them as Docker's binds. Blocks.

    Each node has its own, as it was when the container was made: it may change them.

    Raises:
        OSError: they cannot be written.
    """
    directory = files / plan.hostname
    directory.mkdir(mode=0o700, exist_ok=True)
    made = []
    for target, text in zip(_NAME_FILES, (hosts_file(plan.hosts), NO_RESOLVER), strict=True):
        path = directory / Path(target).name
        path.write_text(text)
        path.chmod(0o644)  # for every user in the container
        # z: relabelled, where SELinux would else keep the container from reading it.
        made.append(f"{path}:{target}:z")
    return made


def plug(
    pid: int,
    interfaces: Iterable[InterfacePlan],
    bridges: Mapping[str, str],
    routes: Iterable[Route],
) -> None:
    """Connect the network namespace of a process with bridges of this machine. Blocks.

    `bridges` has their names by network.

    Raises:
        OSError: the kernel refuses, or the process is gone.
    """
    links = tuple(interfaces)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netlink = Netlink()
    try:
        for link in links:
            # By chance: the end of an earlier run's may not have gone yet.
            name = f"bs{secrets.token_hex(5)}"
            netlink.add_veth(
                name,
                master=socket.if_nametoindex(bridges[link.network]),
                peer=link.device,
                peer_mac=link.mac,
                peer_namespace=namespace,
            )
            netlink.set_up(name)
        netlink.flush()
    finally:
        netlink.close()
        os.close(namespace)
    inside(pid, functools.partial(_configure, links, tuple(routes)))


def _configure(links: Iterable[InterfacePlan], routes: Iterable[Route]) -> None:
    """Do to the calling thread's network namespace what Docker does to that of a container."""
    addresses = [(link.device, str(link.address)) for link in links]
    has_ipv6 = any(link.address.version == 6 for link in links)
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for scope in ("all", "default"):
            (_SYSCTLS / scope / "disable_ipv6").write_text("0" if has_ipv6 else "1")
            (_SYSCTLS / scope / "accept_dad").write_text("0")
    configure(addresses, ((str(route.destination), str(route.via)) for route in routes))
