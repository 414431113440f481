"""Machines with an sshd that are there already, for the `ssh` backend: nodes of a `local` lab.

Their networks are in a network namespace of their own, so each sshd is reached through a port on
loopback, which leads to it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pytest_benchscale import Lab
from pytest_benchscale.topology.model import Attachment, NodeSpec, Ssh, Topology
from pytest_benchscale.transports.namespace import linux

__all__ = ["SSHD", "Keys", "as_ssh", "machines"]

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""Where the sshd is, if it is installed."""

_CONFIG = """\
Port 22
HostKey /etc/ssh/benchscale_host
AuthorizedKeysFile /etc/ssh/benchscale_keys
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
{more}
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


@contextmanager
def machines(ground: Lab, keys: Keys, more: str = "") -> Iterator[Mapping[str, int]]:
    """Run an sshd in every node of a local lab; give the loopback port that leads to each."""
    with ExitStack() as stack:
        ports = {}
        for name in ground.nodes:
            node = ground.sync[name]
            node.write_text("/etc/ssh/benchscale_host", keys.host.read_text())
            node.exec(["chmod", "600", "/etc/ssh/benchscale_host"], check=True)
            node.write_text("/etc/ssh/benchscale_keys", keys.public(keys.user))
            node.write_text("/etc/ssh/benchscale_config", _CONFIG.format(more=more))
            node.exec(["mkdir", "-p", "/run/sshd"], check=True)
            sshd = [str(SSHD), "-D", "-e", "-f", "/etc/ssh/benchscale_config"]
            stack.enter_context(node.process(sshd))
            node.wait_for_port(22, timeout=10)
            inode = node.exec(["readlink", "/proc/self/ns/net"], check=True).stdout.strip()
            ports[name] = stack.enter_context(_forwarded(_namespace(inode)))
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


@contextmanager
def _forwarded(namespace: int) -> Iterator[int]:
    """Lead a port of this machine's loopback to port 22 of a namespace's."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_now: set[socket.socket] = set()

    def serve() -> None:
        linux.setns(namespace, linux.CLONE_NEWNET)
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # it was closed
            try:
                server = socket.create_connection(("127.0.0.1", 22), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            open_now.update((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in open_now:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        os.close(namespace)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
