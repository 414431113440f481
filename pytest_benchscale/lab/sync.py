"""The same lab without `await`: for tests that are not async, and for the interactive prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath

from pytest_benchscale.backends.base import NetworkInfo, NodeStatus
from pytest_benchscale.lab.arguments import CommandLike
from pytest_benchscale.lab.background import SyncBackground
from pytest_benchscale.lab.block import SyncBlock
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.lines import LineStream
from pytest_benchscale.lab.network_faults import SyncNetworkFaults
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.node_faults import SyncNodeFaults
from pytest_benchscale.lab.portal import blocking
from pytest_benchscale.lab.process import Process
from pytest_benchscale.lab.upkeep import SyncUpkeep
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.model import NodeSpec, Topology

__all__ = ["SyncLab", "SyncLines", "SyncNode", "SyncProcess"]


class SyncLab(SyncNetworkFaults, SyncBackground, SyncUpkeep):
    """A lab without `await`; see `Lab`."""

    def __init__(self, lab: Lab) -> None:
        self._wrapped = lab
        self._portal = lab.portal

    def __repr__(self) -> str:
        return f"<SyncLab of {self._wrapped!r}>"

    def __getitem__(self, name: str) -> SyncNode:
        __tracebackhide__ = True
        return self._wrapped[name].sync

    @property
    def name(self) -> str:
        """The topology's name."""
        return self._wrapped.name

    @property
    def topology(self) -> Topology:
        """What the file declares."""
        return self._wrapped.topology

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._wrapped.backend

    @property
    def nodes(self) -> Mapping[str, SyncNode]:
        """The nodes by name, in the order of the file."""
        return {name: node.sync for name, node in self._wrapped.nodes.items()}

    @property
    def networks(self) -> Mapping[str, NetworkInfo]:
        """The networks by name, in the order of the file."""
        return self._wrapped.networks

    exec = blocking(Lab.exec)


class SyncNode(SyncNodeFaults):
    """A node without `await`; see `Node`."""

    def __init__(self, node: Node) -> None:
        self._wrapped = node
        self._portal = node.portal

    def __repr__(self) -> str:
        return f"<SyncNode {self.name!r} on {self.backend!r}>"

    @property
    def name(self) -> str:
        """The name in the file, which is the host name too."""
        return self._wrapped.name

    @property
    def backend(self) -> str:
        """The name of the backend that runs the node."""
        return self._wrapped.backend

    @property
    def spec(self) -> NodeSpec:
        """What the file declares."""
        return self._wrapped.spec

    @property
    def status(self) -> NodeStatus:
        """The state as it is now."""
        __tracebackhide__ = True
        return self._wrapped.status

    @property
    def address(self) -> IpAddress:
        """The address on the first of the node's networks."""
        __tracebackhide__ = True
        return self._wrapped.address

    @property
    def addresses(self) -> Mapping[str, IpAddress]:
        """The addresses by network."""
        __tracebackhide__ = True
        return self._wrapped.addresses

    @property
    def interfaces(self) -> Mapping[str, str]:
        """The names of the network devices inside the node, by network."""
        __tracebackhide__ = True
        return self._wrapped.interfaces

    @property
    def ports(self) -> Mapping[str, int]:
        """The published ports: the node's own, such as "80/tcp", and that of the machine it is on."""
        __tracebackhide__ = True
        return self._wrapped.ports

    exec = blocking(Node.exec)
    put = blocking(Node.put)
    get = blocking(Node.get)
    read_bytes = blocking(Node.read_bytes)
    read_text = blocking(Node.read_text)
    write_bytes = blocking(Node.write_bytes)
    write_text = blocking(Node.write_text)
    start = blocking(Node.start)
    stop = blocking(Node.stop)
    restart = blocking(Node.restart)
    kill = blocking(Node.kill)
    pause = blocking(Node.pause)
    resume = blocking(Node.resume)
    logs = blocking(Node.logs)
    wait_for_port = blocking(Node.wait_for_port)
    wait_for_exec = blocking(Node.wait_for_exec)
    wait_for_file = blocking(Node.wait_for_file)
    wait_for_log = blocking(Node.wait_for_log)

    def process(
        self,
        command: CommandLike,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
        stdin: bool = False,
    ) -> SyncProcess:
        """Return a background process: `with` starts it, and ends it with its children."""
        __tracebackhide__ = True
        return SyncProcess(self._wrapped.process(command, env=env, cwd=cwd, user=user, stdin=stdin))


class SyncProcess(SyncBlock[Process]):
    """A background process without `await`; see `Process`."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.stdout = SyncLines(process.stdout)
        self.stderr = SyncLines(process.stderr)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative when a signal ended it, None while it runs."""
        return self._wrapped.returncode

    wait = blocking(Process.wait)
    wait_for_line = blocking(Process.wait_for_line)
    send_signal = blocking(Process.send_signal)
    terminate = blocking(Process.terminate)
    kill = blocking(Process.kill)
    write = blocking(Process.write)
    close_stdin = blocking(Process.close_stdin)


class SyncLines:
    """An output stream of a process: iterate over its lines, with `for`, once."""

    def __init__(self, stream: LineStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        __tracebackhide__ = True
        line = self._stream.next_blocking()
        if line is None:
            raise StopIteration
        return line
