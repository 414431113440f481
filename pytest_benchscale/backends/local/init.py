"""The first process of a node: builds the node around itself, then serves it.

Forked by the lab's holder into a new pid namespace, so it is process 1 there: when it ends, for
whatever reason, the kernel ends everything in the node.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from pytest_benchscale.backends.local import rootfs, sealing, system
from pytest_benchscale.backends.local.service import Service
from pytest_benchscale.network.netlink import Netlink, configure
from pytest_benchscale.transports.namespace import channel, linux

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pytest_benchscale.backends.local.held import HeldNode
    from pytest_benchscale.backends.local.rootfs import Layout

# Ping without privileges for every group that the user namespace has.
_PING_GROUPS = ("0 2147483647", "0 0")
# Static addresses are told to skip duplicate address detection; link-local ones need this, or a
# node could not use IPv6 for its first second.
_NO_DAD = ("net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad")
_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


class Surroundings:
    """What the holder gives a node to be built from."""

    def __init__(
        self, node: HeldNode, layout: Layout, user_namespace: int | None, back: socket.socket
    ) -> None:
        self.directory = node.directory  # the node's own, on the lab's tmpfs
        self.layout = layout
        self.user_namespace = user_namespace  # None: we are in the lab's already
        # None: make one; else that of a former life.
        self.network_namespace = node.network_namespace
        self.seals = node.beneath  # its checkpoints that are beneath its files, the newest first
        self.back = back  # the channel to the holder


def run(spec: dict[str, Any], sock: socket.socket, output: int, around: Surroundings) -> NoReturn:
    """Become process 1 of a node. Does not return."""
    step = ["start"]
    try:
        keep = {0, 1, 2, sock.fileno(), output, around.back.fileno()}
        namespaces = (around.user_namespace, around.network_namespace)
        _close_all_but(keep | {fd for fd in namespaces if fd is not None})
        linux.prctl(linux.PR_SET_NAME, b"benchscale-init")
        namespace = _build(spec, around, step)
        step[0] = "serve"
        service = Service(sock, around.back, spec["env"])
        if spec["command"]:
            step[0] = "main command"
            service.start_main(spec["command"], output)
        channel.send(sock, {"ready": True}, [namespace])
        os.close(namespace)
        os.close(output)
        service.serve()
    except OSError as error:
        _report(sock, step[0], error.errno or 0, f"{error.strerror}: {error.filename or ''}")
    except Exception as error:  # noqa: BLE001 - the last frame of the process: all is told
        _report(sock, step[0], 0, _where(error))
    finally:
        os._exit(1)


def _where(error: Exception) -> str:
    """Return an unforeseen error with the places it came through; `traceback` is slow to import."""
    places = []
    frame = error.__traceback__
    while frame is not None:
        places.append(f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}")
        frame = frame.tb_next
    return f"{type(error).__name__}: {error} (at {' > '.join(places)})"


def _report(sock: socket.socket, step: str, number: int, text: str) -> None:
    channel.send(sock, {"failed": step, "errno": number, "text": text})


def _build(spec: dict[str, Any], around: Surroundings, step: list[str]) -> int:
    """Make the namespaces and everything in them; return the network namespace."""
    step[0] = "network socket"
    hub = Netlink() if around.network_namespace is None else None
    step[0] = "root"
    # The machine's root mounts the layers before entering the lab's user namespace, in which the
    # kernel would refuse an overlay over a whole root; an ordinary user is in it already.
    if around.user_namespace is not None:
        linux.unshare(linux.CLONE_NEWNS)
        root = _mount_root(spec, around, protect_machine=True)
        linux.setns(around.user_namespace, linux.CLONE_NEWUSER)
        os.close(around.user_namespace)
    step[0] = "namespaces"
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC
    if around.network_namespace is None:
        linux.unshare(flags | linux.CLONE_NEWNET)
    else:
        linux.unshare(flags)
        linux.setns(around.network_namespace, linux.CLONE_NEWNET)
        os.close(around.network_namespace)
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if around.user_namespace is None:
        step[0] = "root"
        root = _mount_root(spec, around, protect_machine=False)
    step[0] = "own directories"
    system.mount_own_directories(root)
    if spec["reset"]:
        step[0] = "files of the checkpoint"
        sealing.put_back(around.layout, around.seals[0], root)
    socket.sethostname(spec["hostname"])
    if hub is not None:
        step[0] = "network"
        _set_sysctls(root, spec)
        _connect(spec, hub, namespace)
        hub.close()
    step[0] = "change of root"
    system.enter(root)
    return namespace


def _mount_root(spec: dict[str, Any], around: Surroundings, *, protect_machine: bool) -> str:
    # A node that lives again has these files, and perhaps has changed them.
    etc = spec["etc"] if spec["first"] or spec["reset"] else {}
    layout, node, seals = around.layout, around.directory, around.seals
    if spec["reset"]:
        sealing.discard_changes(layout, node, seals[0])
    based = spec["reset"] and not layout.is_whole
    root = rootfs.mount_layers(layout, node, etc, seals, based=based)
    system.mount_proc(root, protect_machine=protect_machine)
    system.mount_dev(root)
    for volume in spec["volumes"]:
        system.bind_volume(volume["source"], root, volume["target"], read_only=volume["ro"])
    return root


def _connect(spec: dict[str, Any], hub: Netlink, namespace: int) -> None:
    """Plug the node's devices into the lab's bridges and configure them."""
    for link in spec["links"]:
        hub.add_veth(
            link["name"],
            master=link["bridge"],
            peer=link["device"],
            peer_mac=link["mac"],
            peer_namespace=namespace,
        )
        hub.set_up(link["name"])
    hub.flush()
    configure(
        ((link["device"], link["address"]) for link in spec["links"]),
        ((route["destination"], route["via"]) for route in spec["routes"]),
    )


def _set_sysctls(root: str, spec: dict[str, Any]) -> None:
    if any(":" in link["address"] for link in spec["links"]):
        for name in _NO_DAD:
            _set_sysctl(root, name, "0")
    for groups in _PING_GROUPS:
        if _set_sysctl(root, "net/ipv4/ping_group_range", groups):
            break
    if spec["forwards"]:
        for name in _FORWARDING:
            _set_sysctl(root, name, "1")


def _set_sysctl(root: str, name: str, value: str) -> bool:
    """Set a value of the node's network; False: this kernel has no such, or refuses the value."""
    try:
        with open(f"{root}/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        return False  # a kernel without IPv6
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _close_all_but(keep: set[int]) -> None:
    """Close what the holder had open: the other nodes' namespaces must not be within reach."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the directory's own descriptor, closed by listdir


def prepare_signals() -> None:
    """Undo the interpreter's signal handling: process 1 must ignore what it does not handle."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
