"""The process that holds a lab: its network namespace, its tmpfs and its nodes' first processes.

It is process 1 of the lab's pid namespace, so that the kernel ends every process of the lab with
it; everything else of the lab (mounts, links, files on the tmpfs) hangs on those processes. It ends
when its parent dies or when pytest's end of the control channel closes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket

from pytest_benchscale.backends.local import init, rootfs
from pytest_benchscale.backends.local.children import Children
from pytest_benchscale.backends.local.limits import Limits
from pytest_benchscale.network import prober
from pytest_benchscale.network.netlink import Netlink
from pytest_benchscale.network.steps import from_json
from pytest_benchscale.transports.namespace import channel, linux

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pytest_benchscale.network.traffic import TrafficControl

_BASE = "/run"  # the machine's own /run is of no use to nodes, so the lab's tmpfs goes there


class _Node:
    """What outlives a node's processes: its directory and, once it is up, its network namespace."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        self.network_namespace: int | None = None
        self.links: list[str] = []  # the ends of its veths on our side
        self.pid: int | None = None
        self.waiting: int | None = None  # the request to answer when the process has ended


class Holder:
    """Serves one lab until the control channel closes."""

    def __init__(
        self, control: socket.socket, limits: Limits, *, privileged: bool, overlay: bool
    ) -> None:
        self._control = control
        self._limits = limits
        self._overlay = overlay
        self._nodes: dict[str, _Node] = {}
        self._by_pid: dict[int, _Node] = {}
        self._layouts: dict[str, rootfs.Layout] = {}
        self._made = 0
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._user_namespace = _make_user_namespace() if privileged else None
        self._own_network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._links = Netlink()
        self._traffic: TrafficControl | None = None
        self._children = Children()

    def serve(self) -> NoReturn:
        """Answer requests until the other end is gone; never returns."""
        gc.collect()
        gc.freeze()  # so that a collection in a child does not copy the pages of all objects
        channel.send(self._control, {"ready": True})
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._children.wakeup, select.POLLIN)
        while True:
            for fd, _event in poller.poll():
                if fd == self._children.wakeup:
                    self._reap()
                elif not self._take_requests():
                    os._exit(0)

    def _take_requests(self) -> bool:
        """Answer everything that waits; False: the other end is gone.

        All is read before the first is answered, since every fork makes the next write to memory
        copy the page: forks in a row cost less than forks with reading between them.
        """
        waiting = []
        closed = False
        while not closed:
            try:
                received = channel.receive(self._control, wait=False)
            except BlockingIOError:
                break
            closed = received is None
            waiting += [received] if received else []
        for message, descriptors in waiting:
            self._answer(message, descriptors)
        return not closed

    def _answer(self, message: channel.Message, descriptors: list[int]) -> None:
        try:
            handler = getattr(self, f"_on_{message['op']}")
            answer = handler(message, descriptors)
        except OSError as error:
            text = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            answer = {"errno": error.errno, "text": text}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if answer is not None:
            channel.send(self._control, {"reply": message["request"], **answer})

    def _on_add_bridge(self, message: channel.Message, _fds: list[int]) -> channel.Message:
        self._links.add_bridge(message["name"])
        self._links.set_up(message["name"])
        self._links.flush()
        return {"index": socket.if_nametoindex(message["name"])}

    def _on_delete_link(self, message: channel.Message, _fds: list[int]) -> channel.Message:
        self._links.delete_link(message["name"])
        self._links.flush()
        return {}

    def _on_traffic(self, message: channel.Message, _fds: list[int]) -> channel.Message:
        """Change what acts on the nodes' links."""
        self._traffic_control().carry_out([from_json(step) for step in message["steps"]])
        return {}

    def _on_has_netem(self, _message: channel.Message, _fds: list[int]) -> channel.Message:
        return {"netem": self._traffic_control().has_netem()}

    def _traffic_control(self) -> TrafficControl:
        if self._traffic is None:
            from pytest_benchscale.network.traffic import TrafficControl  # noqa: PLC0415  for few labs

            self._traffic = TrafficControl()
        return self._traffic

    def _on_start(self, message: channel.Message, descriptors: list[int]) -> channel.Message:
        spec = message["spec"]
        node = self._nodes.get(spec["name"])
        spec["first"] = node is None
        if node is None:
            node = self._nodes[spec["name"]] = self._new_node(spec["name"])
        layout = self._layout(spec["image"])
        node.links = [link["name"] for link in spec["links"]]
        if node.network_namespace is not None:
            self._plug(node, up=True)
        # What is forked now is process 1 of a new pid namespace; further children are not.
        linux.unshare(linux.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_init(spec, descriptors, node, layout)
        finally:
            linux.setns(self._own_pid_namespace, linux.CLONE_NEWPID)
        node.pid = pid
        self._by_pid[pid] = node
        directory = os.path.basename(node.directory)
        self._limits.apply(directory, pid, spec["memory_mb"], spec["vcpus"])
        return {}

    def _become_init(
        self, spec: dict[str, Any], descriptors: list[int], node: _Node, layout: rootfs.Layout
    ) -> NoReturn:
        signal.set_wakeup_fd(-1)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        around = init.Surroundings(
            node.directory, layout, self._user_namespace, node.network_namespace
        )
        init.run(spec, socket.socket(fileno=descriptors[0]), descriptors[1], around)

    def _on_keep_network(self, message: channel.Message, descriptors: list[int]) -> None:
        """Hold on to a node's network namespace, so that its links outlive its processes."""
        node = self._nodes.get(message["name"])
        if node is not None and node.network_namespace is None:
            node.network_namespace = os.dup(descriptors[0])

    def _on_echoes(self, message: channel.Message, _fds: list[int]) -> channel.Message | None:
        """Open a node's raw sockets; they go to the other end. None: it has no network yet, or no more."""
        node = self._nodes.get(message["name"])
        sockets = []
        if node is not None and node.network_namespace is not None:
            linux.setns(node.network_namespace, linux.CLONE_NEWNET)
            try:
                sockets = prober.open_sockets()
            finally:
                linux.setns(self._own_network, linux.CLONE_NEWNET)
        descriptors = [one.fileno() for one in sockets]
        channel.send(self._control, {"reply": message["request"]}, descriptors)
        for one in sockets:
            one.close()
        return None

    def _on_kill(self, message: channel.Message, _fds: list[int]) -> channel.Message | None:
        """End a node; answered once all its processes are gone.

        With `forget` its network goes too; its files go with the lab's tmpfs.
        """
        node = self._nodes.get(message["name"])
        if node is None:
            return {}
        if message["forget"]:
            del self._nodes[message["name"]]
            if node.network_namespace is not None:
                os.close(node.network_namespace)
        if node.pid is None:
            return {}
        os.kill(node.pid, signal.SIGKILL)
        node.waiting = message["request"]
        return None

    def _new_node(self, name: str) -> _Node:
        self._made += 1
        directory = f"{_BASE}/node{self._made}"
        os.mkdir(directory)
        return _Node(name, directory)

    def _layout(self, image: str) -> rootfs.Layout:
        layout = self._layouts.get(image)
        if layout is None:
            scratch = f"{_BASE}/image{len(self._layouts)}"
            os.mkdir(scratch)
            lower = (
                image
                if os.path.isdir(image)
                else _unpack(
                    image, f"{scratch}/unpacked", keep_owners=self._user_namespace is not None
                )
            )
            layout = rootfs.survey(lower, scratch, overlay=self._overlay)
            self._layouts[image] = layout
        return layout

    def _reap(self) -> None:
        for pid, status in self._children.reap():
            node = self._by_pid.pop(pid, None)
            if node is not None:
                self._node_ended(node, status)

    def _plug(self, node: _Node, *, up: bool) -> None:
        """Connect a node with its networks, or cut it off."""
        for link in node.links:
            self._links.set_up(link, up=up)
        self._links.flush()

    def _node_ended(self, node: _Node, status: int) -> None:
        node.pid = None
        if node.network_namespace is not None and node.name in self._nodes:
            # Its network is kept for its next life; without this it would go on to answer pings,
            # and a dead router would forward.
            self._plug(node, up=False)
        channel.send(self._control, {"ended": node.name, "status": status})
        if node.waiting is not None:
            channel.send(self._control, {"reply": node.waiting})
            node.waiting = None


def set_up_mounts() -> None:
    """Prepare the lab's own mount namespace: nothing propagates, its own /proc, its own tmpfs.

    Raises:
        OSError: refused by the kernel or by a surrounding container; `filename` says which mount.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("tmpfs", _BASE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")


def _make_user_namespace() -> int:
    """Return a user namespace with the machine's own ids, for nodes that the machine's root makes.

    In it a node's root is root over the node's files and networks, and nobody over the machine. The
    holder moves into a network namespace that belongs to it, so that nodes may add links there.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    wait, done = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done)
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
            os.write(tell, b"y")
            os.read(wait, 1)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait)
    try:
        answer = os.read(told, 16)
        if answer != b"y":
            number = int(answer or b"0")
            raise OSError(number, os.strerror(number), "user namespace")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/self/{kind}", encoding="ascii") as file:
                ranges = [line.split() for line in file]
            with open(f"/proc/{pid}/{kind}", "w", encoding="ascii") as file:
                file.write("".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges))
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(network, linux.CLONE_NEWNET)
        os.close(network)
    finally:
        os.close(done)
        os.close(told)
        os.waitpid(pid, 0)
    return namespace


def _unpack(archive: str, directory: str, *, keep_owners: bool) -> str:
    """Unpack a root file system tarball; in a process that cannot leave the directory.

    Without `keep_owners` everything is root's: the only user that an ordinary user can map.

    Raises:
        OSError: it cannot be read, is no tarball, or does not fit.
    """
    source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    os.mkdir(directory)
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _unpack_and_exit(source, directory, tell, keep_owners=keep_owners)
    os.close(tell)
    os.close(source)
    with os.fdopen(told, encoding="utf-8", errors="replace") as answers:
        trouble = answers.read()
    _, status = os.waitpid(pid, 0)
    if trouble or status:
        reason = trouble or f"the unpacking process ended with {os.waitstatus_to_exitcode(status)}"
        raise OSError(errno.EBADMSG, f"it cannot be unpacked: {reason}", archive)
    return directory


def _unpack_and_exit(source: int, directory: str, tell: int, *, keep_owners: bool) -> NoReturn:
    try:
        # Few labs need these, and they take long to import; in the jail they cannot be imported.
        import tarfile  # noqa: PLC0415

        for compression in ("gzip", "bz2", "lzma"):
            with contextlib.suppress(ImportError):
                __import__(compression)
        os.chroot(directory)
        os.chdir("/")
        try:
            with os.fdopen(source, "rb") as packed, tarfile.open(fileobj=packed) as archive:
                archive.extraction_filter = lambda member, _path: member  # the jail is enough
                for member in archive:
                    if not keep_owners:
                        member.uid = member.gid = 0
                    if not member.isdev():  # a node has a /dev of its own
                        archive.extract(member, numeric_owner=True)
        except (OSError, EOFError, tarfile.TarError) as error:
            os.write(tell, str(error).encode(errors="replace")[:4000])
        os._exit(0)
    finally:
        os._exit(1)
