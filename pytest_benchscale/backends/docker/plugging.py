"""Links of containers that we make ourselves, since Docker takes three times as long for them.

For every container that it attaches to a network, Docker runs itself twice more: as a hook of the start,
which hands it the network namespace, and to have its name server answer in there (libnetwork's `setkey` and
`setup-resolver`). A container whose network is disabled has a namespace all the same; one message to the
kernel puts the end of a veth pair into it, and the other one on the bridge of Docker's network. Its names
are in a hosts file of ours. Whatever is done to the links of containers is done to these alike: they are in
the container's namespace, and go with it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

from pytest_benchscale.backends.base import InterfacePlan, LabPlan, NodePlan, Route
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.backends.docker.inside import inside
from pytest_benchscale.backends.docker.shared_machine import shares_this_machine
from pytest_benchscale.backends.names import NO_RESOLVER, hosts_file
from pytest_benchscale.network.netlink import Netlink, configure

__all__ = ["Plugs", "chosen", "plugs_for"]

_PREFIX = "bs"  # of our ends of the links
_DIRECTORY = "names"
_NAME_FILES = ("/etc/hosts", "/etc/resolv.conf")
_IPV6 = Path("/proc/sys/net/ipv6/conf")


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


async def plugs_for(
    engine: Engine, lab: LabPlan, info: Mapping[str, Any], dialect: Dialect
) -> Plugs | None:
    """Return the links that we make for a lab; None: Docker makes all of them. `info` is the daemon's own.

    Where Docker maps the users of containers to others, the name files would be nobody's in there.
    """
    files = lab.files
    remapped = any("name=userns" in option for option in info.get("SecurityOptions") or ())
    # In a bind of Docker's a colon ends the path.
    if dialect.bridge_prefix is None or files is None or ":" in str(files) or remapped:
        return None
    plugs = Plugs(lab, files)
    if not plugs.nodes or not await to_thread.run_sync(shares_this_machine, engine.address):
        return None
    return plugs


@dataclass(frozen=True, slots=True)
class _Bridge:
    name: str
    mtu: int | None


class Plugs:
    """The links that we make for the containers of one lab. What it does blocks.

    `files` is the directory of the lab's own files; `nodes` are those whose links may be ours.
    """

    def __init__(self, lab: LabPlan, files: Path) -> None:
        self._lab_id = lab.lab_id
        self._directory = files / _DIRECTORY
        self.nodes = chosen(lab)
        self._bridges: dict[str, _Bridge] = {}

    def learn(self, network: str, bridge: str, mtu: int | None) -> None:
        """Be told of a network that was made; `mtu` is that of its links, where it is not the usual one."""
        self._bridges[network] = _Bridge(bridge, mtu)

    def are_for(self, plan: NodePlan) -> bool:
        """Return whether we make the links of a node that idles: the bridges are there to be used."""
        return plan.name in self.nodes and all(
            one.network in self._bridges
            and Path("/sys/class/net", self._bridges[one.network].name).exists()
            for one in plan.interfaces
        )

    def binds(self, plan: NodePlan) -> tuple[Path, list[str]]:
        """Write the files by which a node finds the others; return their directory, and Docker's binds.

        Each container has its own: it may change them.

        Raises:
            OSError: they cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"{plan.hostname}_", dir=self._directory))
        made = []
        for target, text in zip(_NAME_FILES, (_hosts_of(plan), NO_RESOLVER), strict=True):
            path = directory / Path(target).name
            path.write_text(text)
            path.chmod(0o644)  # for every user in the container
            # z: relabelled, where SELinux would else keep the container from reading it.
            made.append(f"{path}:{target}:z")
        return directory, made

    def plug(self, plan: NodePlan, pid: int, routes: Iterable[Route]) -> None:
        """Connect the network namespace of a node's main process. Links of an earlier run are removed.

        Raises:
            OSError: the kernel refuses, or the process is gone.
        """
        self.unplug(plan)
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        netlink = Netlink()
        try:
            identity = os.fstat(namespace)
            if _is_here(identity):
                raise _no_longer_its_own()
            for link in plan.interfaces:
                bridge, name = self._bridges[link.network], self._end_of(plan, link)
                netlink.add_veth(
                    name,
                    master=socket.if_nametoindex(bridge.name),
                    peer=link.device,
                    peer_mac=link.mac,
                    peer_namespace=namespace,
                    mtu=bridge.mtu,
                )
                netlink.set_up(name)
            netlink.flush()
        finally:
            netlink.close()
            os.close(namespace)
        inside(pid, functools.partial(_configure, plan.interfaces, tuple(routes), identity))

    def unplug(self, plan: NodePlan) -> None:
        """Remove a node's links: its namespace may outlast it, as long as anybody else has it open.

        Raises:
            OSError: the kernel refuses.
        """
        netlink = Netlink()
        try:
            for link in plan.interfaces:
                netlink.delete_link(self._end_of(plan, link))
            for error in netlink.settle().values():
                if error.errno != errno.ENODEV:
                    raise error
        finally:
            netlink.close()

    def _end_of(self, plan: NodePlan, link: InterfacePlan) -> str:
        """Return the name of our end of a link: by it, whoever comes later finds it."""
        text = f"{self._lab_id} {plan.name} {link.network}"
        return _PREFIX + hashlib.sha256(text.encode()).hexdigest()[: 15 - len(_PREFIX)]


def _hosts_of(plan: NodePlan) -> str:
    """Return the text of a node's hosts file; its own host name may be another than its name in the lab."""
    own = {plan.hostname: tuple(one.address.ip for one in plan.interfaces)}
    return hosts_file({**own, **plan.hosts})


def _is_here(namespace: os.stat_result) -> bool:
    """Return whether the calling thread is in a network namespace."""
    return os.path.samestat(namespace, Path("/proc/thread-self/ns/net").stat())


def _no_longer_its_own() -> OSError:
    return ProcessLookupError(errno.ESRCH, "it has ended, and another process has its number")


def _configure(
    links: Sequence[InterfacePlan], routes: Iterable[Route], namespace: os.stat_result
) -> None:
    """Do to the calling thread's network namespace what Docker does to that of a container.

    `namespace` is the one that it must be.
    """
    if not _is_here(namespace):
        raise _no_longer_its_own()
    has_ipv6 = any(link.address.version == 6 for link in links)
    with suppress(FileNotFoundError):  # a kernel without IPv6
        (_IPV6 / "all/disable_ipv6").write_text("0" if has_ipv6 else "1")
        (_IPV6 / "lo/disable_ipv6").write_text("0")
        for scope in ("all", *(link.device for link in links)):
            (_IPV6 / scope / "accept_dad").write_text("0")
    configure(
        ((link.device, str(link.address)) for link in links),
        ((str(route.destination), str(route.via)) for route in routes),
    )
