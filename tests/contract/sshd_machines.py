"""Machines with an sshd that are there already, for the `ssh` backend: nodes of a `local` lab.

Their networks are in a network namespace of their own, so each sshd is reached through a port on
loopback, which leads to it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pytest_benchscale import Lab, Node
from pytest_benchscale.topology.model import Attachment, NodeSpec, Ssh, Topology
from pytest_benchscale.transports.namespace import linux

__all__ = ["Keys", "Road", "as_ssh", "machines", "needs_sshd", "road", "sshd"]

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

needs_sshd = pytest.mark.skipif(
    # In CI its absence is a failure.
    sys.platform != "linux" or not IS_ROOT or (SSHD is None and not os.environ.get("CI")),
    reason="needs root on Linux, and sshd: apt-get install openssh-server",
)
"""For tests that run sshds in nodes."""

_CONFIG = """\
# of two settings sshd takes the first
Port 22
HostKey /etc/ssh/benchscale_host
AuthorizedKeysFile /etc/ssh/benchscale_keys
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
"""


class Keys:
    """A user's key and a host's, made for one test run."""

    def __init__(self, directory: Path) -> None:
        self.user, self.host = directory / "user", directory / "host"
        for path in (self.user, self.host):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            subprocess.run(argv, check=True, timeout=30)

    @staticmethod
    def public(path: Path) -> str:
        """Return the public half of a key."""
        return path.with_suffix(".pub").read_text()


class Road:
    """What leads a port of this machine's loopback to a port in a network namespace.

    It can be broken and blocked, and be slow at its beginning. `host` is an address as it is seen there.
    """

    def __init__(self, namespace: int, target: int, host: str = "127.0.0.1") -> None:
        self.slowness = 0.0  # seconds before anything goes through
        self._namespace = namespace
        self._target = (host, target)
        self._free = threading.Event()
        self._free.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pumps: list[tuple[socket.socket, threading.Thread]] = []
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    @property
    def port(self) -> int:
        """The port on loopback."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Break all connections."""
        for each, _ in self._pumps:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def block(self) -> None:
        """Let nothing through any more, and say nothing of it."""
        self._free.clear()

    def unblock(self) -> None:
        """Undo `block`."""
        self._free.set()

    def close(self) -> None:
        """End it."""
        self.unblock()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._serving.join(10)
        self.cut()
        for each, pump in self._pumps:
            pump.join(10)
            each.close()
        os.close(self._namespace)

    def _serve(self) -> None:
        linux.setns(self._namespace, linux.CLONE_NEWNET)
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one, other in ((client, server), (server, client)):
                pump = threading.Thread(target=self._pump, args=(one, other), daemon=True)
                self._pumps.append((one, pump))
                pump.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        time.sleep(self.slowness)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._free.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def sshd(node: Node, keys: Keys, more: str = "") -> Iterator[None]:
    """Run an sshd in a node of a local lab; `more` is for its configuration."""
    sync = node.sync
    sync.write_text("/root/.bashrc", "")  # that of whoever runs the tests may do a lot
    sync.write_text("/etc/ssh/benchscale_host", keys.host.read_text())
    sync.exec(["chmod", "600", "/etc/ssh/benchscale_host"], check=True)
    sync.write_text("/etc/ssh/benchscale_keys", keys.public(keys.user))
    sync.write_text("/etc/ssh/benchscale_config", f"{more}\n{_CONFIG}")
    sync.exec(["mkdir", "-p", "/run/sshd"], check=True)
    with sync.process([str(SSHD), "-D", "-e", "-f", "/etc/ssh/benchscale_config"]):
        sync.wait_for_port(22, timeout=10)
        yield


@contextmanager
def road(node: Node, host: str = "127.0.0.1") -> Iterator[Road]:
    """Lead a port to a node's sshd, or to that of another one's address from there."""
    inode = node.sync.exec(["readlink", "/proc/self/ns/net"], check=True).stdout.strip()
    one = Road(_namespace(inode), 22, host)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def machines(ground: Lab, keys: Keys) -> Iterator[Mapping[str, int]]:
    """Run an sshd in every node of a local lab; give the loopback port that leads to each."""
    with ExitStack() as stack:
        ports = {}
        for name, node in ground.nodes.items():
            stack.enter_context(sshd(node, keys))
            ports[name] = stack.enter_context(road(node)).port
        yield ports


def as_ssh(topology: Topology, ground: Lab, ports: Mapping[str, int], keys: Keys) -> Topology:
    """Return a topology whose nodes are those machines."""

    def there(node: NodeSpec) -> NodeSpec:
        addresses = ground[node.name].addresses
        networks = tuple(
            Attachment(name=name, address=str(address)) for name, address in addresses.items()
        )
        ssh = Ssh(user="root", key=str(keys.user), port=ports[node.name], known_hosts="none")
        return node.model_copy(
            update={"address": "127.0.0.1", "ssh": ssh, "networks": networks or node.networks}
        )

    infos = ground.networks
    networks = tuple(
        network.model_copy(update={"subnet": infos[network.name].subnet})
        for network in topology.networks
    )
    nodes = tuple(there(node) for node in topology.nodes)
    return topology.model_copy(update={"nodes": nodes, "networks": networks})


def _namespace(inode: str) -> int:
    """Return a descriptor of the network namespace that is named so, `net:[NUMBER]`."""
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            if str(entry.readlink()) == inode:
                return os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
    raise AssertionError(f"no process is in {inode}")
