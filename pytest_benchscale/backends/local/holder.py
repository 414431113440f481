"""The process that holds a lab: its network namespace, its tmpfs and its nodes' first processes.

It is process 1 of the lab's pid namespace, so that the kernel ends every process of the lab with
it; everything else of the lab (mounts, links, files on the tmpfs) hangs on those processes. It ends
when its parent dies or when pytest's end of the control channel closes, unless the lab is kept.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket

from pytest_benchscale.backends.local import init, rootfs, sealing
from pytest_benchscale.backends.local.children import Children
from pytest_benchscale.backends.local.held import HeldNode, Ties, Work
from pytest_benchscale.backends.local.keeping import Keeping
from pytest_benchscale.backends.local.limits import Limits
from pytest_benchscale.backends.local.link_filters import LinkFilters
from pytest_benchscale.backends.local.unpacking import unpack
from pytest_benchscale.backends.local.user_namespace import make_user_namespace
from pytest_benchscale.network import prober
from pytest_benchscale.network.netlink import Netlink
from pytest_benchscale.network.steps import from_json
from pytest_benchscale.transports.namespace import channel, linux

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from pytest_benchscale.network.traffic import TrafficControl

_BASE = "/run"  # the machine's own /run is of no use to nodes, so the lab's tmpfs goes there


class Holder(Keeping):
    """Serves one lab until the control channel closes."""

    def __init__(
        self,
        control: socket.socket,
        limits: Limits,
        ties: Ties,
        *,
        privileged: bool,
        overlay: bool,
    ) -> None:
        super().__init__(control, ties)
        self._limits = limits
        self._overlay = overlay
        self._by_pid: dict[int, HeldNode] = {}
        self._layouts: dict[str, rootfs.Layout] = {}
        self._made = 0
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._user_namespace = make_user_namespace() if privileged else None
        self._own_network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._links = Netlink()
        self._traffic: TrafficControl | None = None
        self._filters = LinkFilters()
        self._retired = 0
        self._workers: dict[int, Work] = {}
        self._children = Children()

    def serve(self) -> NoReturn:
        """Answer requests until the other end is gone; never returns."""
        gc.collect()
        gc.freeze()  # so that a collection in a child does not copy the pages of all objects
        self._tell(self._asking, {"ready": True})
        self._poller.register(self._asking, select.POLLIN)
        self._poller.register(self._children.wakeup, select.POLLIN)
        while True:
            for fd, _event in self._poller.poll(self._patience()):
                if fd == self._children.wakeup:
                    self._reap()
                elif fd in self._clients:
                    client = self._clients[fd]
                    if not self._take_requests(client):
                        self._lose(client)
                else:
                    self._accept()

    def _take_requests(self, client: socket.socket) -> bool:
        """Answer everything that waits; False: the other end is gone.

        All is read before the first is answered, since every fork makes the next write to memory
        copy the page: forks in a row cost less than forks with reading between them.
        """
        waiting = []
        closed = False
        while not closed:
            try:
                received = channel.receive(client, wait=False)
            except BlockingIOError:
                break
            except ConnectionResetError:
                received = None
            closed = received is None
            waiting += [received] if received else []
        for message, descriptors in waiting:
            self._asking = client
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
            self._tell(self._asking, {"reply": message["request"], **answer})

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
        steps = [from_json(step) for step in message["steps"]]
        with self._filters.noting(steps):
            self._traffic_control().carry_out(steps)
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
        node.layout = self._layout(spec["image"])
        node.etc = spec["etc"]
        node.forget_end()
        node.hold_log(descriptors[1])
        back = node.new_channel()
        if spec["reset"]:
            self._lead_back(node)
        node.links = [link["name"] for link in spec["links"]]
        if node.network_namespace is not None:
            self._plug(node, up=True)
        # What is forked now is process 1 of a new pid namespace; further children are not.
        linux.unshare(linux.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_init(spec, descriptors, node, back)
        finally:
            linux.setns(self._own_pid_namespace, linux.CLONE_NEWPID)
            back.close()
        node.pid = pid
        self._by_pid[pid] = node
        directory = os.path.basename(node.directory)
        self._limits.apply(directory, pid, spec["memory_mb"], spec["vcpus"])
        return {}

    def _become_init(
        self, spec: dict[str, Any], descriptors: list[int], node: HeldNode, back: socket.socket
    ) -> NoReturn:
        signal.set_wakeup_fd(-1)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        assert node.layout is not None  # noqa: S101  for the type checker
        around = init.Surroundings(node, node.layout, self._user_namespace, back)
        init.run(spec, socket.socket(fileno=descriptors[0]), descriptors[1], around)

    def _lead_back(self, node: HeldNode) -> None:
        """Prepare a node that does not run for a life on its checkpoint, in a new network.

        Whatever was changed in its network goes with that. The old ends of its links vanish some time after
        it; taking each away at once costs the kernel 16 ms. So they go out of the way of the new ones.
        """
        if not node.seals:
            raise OSError(errno.ENOENT, "there is no checkpoint", node.name)
        node.beneath = list(node.seals)
        for link in node.links:
            self._retired += 1
            self._links.rename(link, f"old{self._retired}")
        for error in self._links.settle().values():
            if error.errno != errno.ENODEV:  # a test may have deleted one
                raise error
        if (
            node.network_namespace is not None
        ):  # only now: the kernel takes away what is in it at once
            os.close(node.network_namespace)
            node.network_namespace = None
        node.cut_uplink()

    def _on_renew_filters(self, message: channel.Message, _fds: list[int]) -> channel.Message:
        """Attach to the new links of a node what was attached to those before; the queues are still there."""
        node = self._nodes[message["name"]]
        steps = [step for link in node.links for step in self._filters.standing(link)]
        if steps:
            self._traffic_control().carry_out(steps)
        return {}

    def _on_checkpoint(self, message: channel.Message, _fds: list[int]) -> channel.Message | None:
        """Keep a copy of a node's files as they are; answered when it is there."""
        node = self._nodes[message["name"]]
        if node.pid is None or node.layout is None:
            raise OSError(errno.ESRCH, "it does not run", node.name)
        unused = [seal for seal in node.seals if seal not in node.beneath]
        node.made_seals += 1
        seal = sealing.seal_of(node.directory, node.made_seals)
        copies, opened = sealing.plan_seal(node.layout, node.directory, node.pid, seal, node.etc)
        try:
            node.seals = [seal, *node.beneath]
            if not copies and not unused:
                os.mkdir(seal)
                return {}
            self._in_a_child(message["request"], lambda: _seal(seal, copies, unused))
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return None

    def _in_a_child(self, request: int, work: Callable[[], None]) -> None:
        """Do something that may take long; the request is answered when it is done."""
        errors, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            status = 1
            try:
                work()
                status = 0
            except OSError as error:
                told = f"{error.errno} {error.strerror}: {error.filename}"
                os.write(tell, told.encode(errors="replace")[:4000])
            finally:
                os._exit(status)
        os.close(tell)
        self._workers[pid] = Work(self._asking, request, errors)

    def _work_ended(self, work: Work, status: int) -> None:
        with os.fdopen(work.errors, encoding="utf-8", errors="replace") as errors:
            number, _, text = errors.read().partition(" ")
        answer: channel.Message = {"reply": work.request}
        if status:
            answer["errno"] = int(number or errno.EIO)
            answer["text"] = text or f"the process that did it ended with {status}"
        self._tell(work.client, answer)

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
        self._tell(self._asking, {"reply": message["request"]}, descriptors)
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
            node.close()
        node.is_wanted = False
        if node.pid is None:
            return {}
        os.kill(node.pid, signal.SIGKILL)
        node.waiting.append((self._asking, message["request"]))
        return None

    def _new_node(self, name: str) -> HeldNode:
        self._made += 1
        directory = f"{_BASE}/node{self._made}"
        os.mkdir(directory)
        return HeldNode(name, directory)

    def _layout(self, image: str) -> rootfs.Layout:
        layout = self._layouts.get(image)
        if layout is None:
            scratch = f"{_BASE}/image{len(self._layouts)}"
            os.mkdir(scratch)
            lower = (
                image
                if os.path.isdir(image)
                else unpack(
                    image, f"{scratch}/unpacked", keep_owners=self._user_namespace is not None
                )
            )
            layout = rootfs.survey(lower, scratch, overlay=self._overlay)
            self._layouts[image] = layout
        return layout

    def _reap(self) -> None:
        for pid, status in self._children.reap():
            work = self._workers.pop(pid, None)
            if work is not None:
                self._work_ended(work, status)
            node = self._by_pid.pop(pid, None)
            if node is not None:
                self._node_ended(node, status)

    def _plug(self, node: HeldNode, *, up: bool) -> None:
        """Connect a node with its networks, or cut it off. What it has deleted is cut off already."""
        for link in node.links:
            self._links.set_up(link, up=up)
        for error in self._links.settle().values():
            if up or error.errno != errno.ENODEV:
                raise error

    def _node_ended(self, node: HeldNode, status: int) -> None:
        node.pid = None
        if node.network_namespace is not None and node.name in self._nodes:
            # Its network is kept for its next life; without this it would go on to answer pings,
            # and a dead router would forward.
            self._plug(node, up=False)
        node.note_end(status)
        for client in list(self._clients.values()):
            self._tell(client, {"ended": node.name, "status": status, "main": node.main_status})
        waiting, node.waiting = node.waiting, []
        for client, request in waiting:
            self._tell(client, {"reply": request})


def _seal(seal: str, copies: sealing.Copies, unused: list[str]) -> None:
    sealing.copy_all(seal, copies)
    for former in unused:
        sealing.remove_tree(former)


def set_up_mounts() -> None:
    """Prepare the lab's own mount namespace: nothing propagates, its own /proc, its own tmpfs.

    Raises:
        OSError: refused by the kernel or by a surrounding container; `filename` says which mount.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("tmpfs", _BASE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
