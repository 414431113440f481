"""One machine of a lab: commands, files, life and waiting."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab import waits
from pytest_benchscale.lab.arguments import (
    CommandLike,
    build_command,
    check_timeout,
    encode,
    node_path,
)
from pytest_benchscale.lab.faults import Faults
from pytest_benchscale.lab.lifecycle import Lifecycle
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_faults import NodeFaults
from pytest_benchscale.lab.portal import on_portal
from pytest_benchscale.lab.process import Process
from pytest_benchscale.lab.streaming import Read, Write, stream
from pytest_benchscale.lab.terminal import SHELL_SCRIPT, NodeTerminal
from pytest_benchscale.results import ExecResult
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.model import NodeSpec
from pytest_benchscale.transports.base import TerminalSize

if TYPE_CHECKING:
    from pytest_benchscale.lab.sync import SyncNode

__all__ = ["Node"]


class Node(NodeFaults):
    """A machine of the lab's topology; `lab["name"]` hands it out.

    Every method may be called from any event loop. Each raises `LabError` when the node is stopped
    or paused, and `NodeDied` when it ended by itself.
    """

    def __init__(self, spec: NodeSpec, machine: Machine, faults: Faults) -> None:
        self._spec = spec
        self._machine = machine
        self._faults = faults
        self.portal = self._portal = machine.context.portal
        self._lifecycle = Lifecycle(machine, faults.links)

    def __repr__(self) -> str:
        return f"<Node {self.name!r} on {self.backend!r}>"

    @property
    def name(self) -> str:
        """The name in the file, which is the host name too."""
        return self._spec.name

    @property
    def backend(self) -> str:
        """The name of the backend that runs the node."""
        return self._machine.context.backend.name

    @property
    def spec(self) -> NodeSpec:
        """What the file declares."""
        return self._spec

    @property
    def status(self) -> NodeStatus:
        """The state as it is now: the backend is asked, so that a death by itself shows."""
        __tracebackhide__ = True
        info = self._machine.info
        if info is None:
            return NodeStatus.STOPPED
        if self._portal.is_here:
            return info.status
        return self._portal.call_blocking(self._machine.refresh).status

    @property
    def address(self) -> IpAddress:
        """The address on the first of the node's networks.

        Raises:
            LabError: it is on none, or its lab is not up.
        """
        __tracebackhide__ = True
        first = next(iter(self.addresses.values()), None)
        if first is None:
            raise LabError(
                f"node {self.name!r} has no address: it is on no network",
                node=self.name,
                step="address",
                resolution=f"put node {self.name!r} on a network, under its `networks:`",
            )
        return first

    @property
    def addresses(self) -> Mapping[str, IpAddress]:
        """The addresses by network; never one that only the lab itself talks to."""
        __tracebackhide__ = True
        return self._machine.existing("addresses").addresses

    @property
    def interfaces(self) -> Mapping[str, str]:
        """The names of the network devices inside the node, by network."""
        __tracebackhide__ = True
        return self._machine.existing("interfaces").interfaces

    @property
    def ports(self) -> Mapping[str, int]:
        """The published ports: the node's own, such as "80/tcp", and that of the machine it is on.

        A port declared without one of the machine's gets any that is free, perhaps another after
        each start.
        """
        __tracebackhide__ = True
        return self._machine.existing("ports").ports

    @property
    def sync(self) -> SyncNode:
        """The same node without `await`."""
        from pytest_benchscale.lab.sync import SyncNode  # noqa: PLC0415  it builds on this module

        return SyncNode(self)

    @on_portal
    async def exec(
        self,
        command: CommandLike,
        *,
        input: str | bytes | None = None,  # noqa: A002  subprocess.run calls it so
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
        timeout: float | None = 60,
        check: bool = False,
    ) -> ExecResult:
        """Run a command to its end. Text goes through `/bin/sh -c`; a sequence is exactly that argv.

        `input` goes to its standard input, then EOF. `env` is added to the node's environment.
        `timeout` is in seconds, None for no deadline.

        Raises:
            CommandTimeout: it ran longer; it and its children were killed. Has the output so far.
            CommandFailed: it returned non-zero and `check` is true.
            NotSupported: the backend cannot run commands as another `user`.
        """
        __tracebackhide__ = True
        shown, built = build_command(command, env, cwd, user)
        result = await self._machine.run(
            shown,
            built,
            stdin=None if input is None else encode(input),
            timeout=check_timeout(timeout),
        )
        return result.check() if check else result

    def process(
        self,
        command: CommandLike,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
        stdin: bool = False,
    ) -> Process:
        """Return a background process: `async with` starts it, and ends it with its children."""
        __tracebackhide__ = True
        shown, built = build_command(command, env, cwd, user)
        line = ExecResult(shown, 0, b"", b"", 0.0).command_line
        return Process(self._machine, line, built, stdin=stdin)

    @on_portal
    async def stream(
        self,
        command: CommandLike,
        *,
        read: Read,
        out: Write,
        err: Write,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
    ) -> int:
        """Run a command, its streams handed through in the lab's own loop; return its exit code."""
        __tracebackhide__ = True
        _, built = build_command(command, env, cwd, user)
        return await stream(self._machine, built, read, out, err)

    def terminal(
        self,
        command: CommandLike | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
        size: tuple[int, int] = (24, 80),
        term: str = "xterm-256color",
    ) -> NodeTerminal:
        """Return a terminal with a command on it, else with a shell: `async with` opens and closes it.

        `size` is in rows and columns.
        """
        __tracebackhide__ = True
        _, built = build_command(SHELL_SCRIPT if command is None else command, env, cwd, user)
        return NodeTerminal(self._machine, built, TerminalSize(*size), term)

    @on_portal
    async def put(self, local: str | os.PathLike[str], remote: str | PurePath) -> None:
        """Copy a file or a whole directory into the node: `cp -a` rules for the target.

        Raises:
            LabError: there is no such file, or the node's system refuses.
        """
        __tracebackhide__ = True
        source, target = Path(local), node_path(remote)
        self._require_source(source)
        transport = await self._machine.way_in("put")
        work = transport.put(source, target)
        await self._machine.file_work(work, "put", f"{source} -> {target}")

    @on_portal
    async def get(self, remote: str | PurePath, local: str | os.PathLike[str]) -> None:
        """Copy a file or a whole directory out of the node: `cp -a` rules for the target.

        Raises:
            LabError: there is no such file in the node, or no place for it here.
        """
        __tracebackhide__ = True
        source, target = node_path(remote), Path(local)
        self._require_parent(target)
        transport = await self._machine.way_in("get")
        work = transport.get(source, target)
        await self._machine.file_work(work, "get", f"{source} -> {target}")

    @on_portal
    async def read_bytes(self, path: str | PurePath) -> bytes:
        """Return the content of a file in the node."""
        __tracebackhide__ = True
        remote = node_path(path)
        transport = await self._machine.way_in("read")
        work = transport.read_bytes(remote)
        return await self._machine.file_work(work, "read", remote)

    async def read_text(self, path: str | PurePath, encoding: str = "utf-8") -> str:
        """Return the content of a text file in the node."""
        __tracebackhide__ = True
        return (await self.read_bytes(path)).decode(encoding)

    @on_portal
    async def write_bytes(
        self, path: str | PurePath, data: bytes, *, mode: int | None = None
    ) -> None:
        """Create or replace a file in the node, with the directories above it."""
        __tracebackhide__ = True
        remote, content = node_path(path), encode(data)
        work = self._machine.write(remote, content, mode)
        await self._machine.file_work(work, "write", remote)

    async def write_text(
        self, path: str | PurePath, text: str, *, mode: int | None = None, encoding: str = "utf-8"
    ) -> None:
        """Create or replace a text file in the node, with the directories above it."""
        __tracebackhide__ = True
        await self.write_bytes(path, text.encode(encoding), mode=mode)

    @on_portal
    async def start(self) -> None:
        """Start a stopped or dead node, with the addresses, links and files it had."""
        __tracebackhide__ = True
        await self._lifecycle.start()

    @on_portal
    async def stop(self, *, grace: float = 10.0) -> None:
        """Stop the node in order; its main command gets SIGTERM and `grace` seconds."""
        __tracebackhide__ = True
        await self._lifecycle.stop(grace)

    @on_portal
    async def restart(self, *, grace: float = 10.0) -> None:
        """Stop the node in order and start it again."""
        __tracebackhide__ = True
        await self._lifecycle.stop(grace)
        await self._lifecycle.start()

    @on_portal
    async def kill(self) -> None:
        """End the node at once, as a power cut does; `start` brings it back."""
        __tracebackhide__ = True
        await self._lifecycle.kill()

    @on_portal
    async def pause(self) -> None:
        """Freeze everything in the node."""
        __tracebackhide__ = True
        await self._lifecycle.pause()

    @on_portal
    async def resume(self) -> None:
        """Undo `pause`."""
        __tracebackhide__ = True
        await self._lifecycle.resume()

    @on_portal
    async def logs(self, *, timestamps: bool = False) -> str:
        """Return what the node has said so far; also of a stopped or dead one.

        With `timestamps`, each line has its time before it, in RFC 3339 and UTC, and a space.

        Raises:
            NotSupported: the backend does not know when a line was written.
        """
        __tracebackhide__ = True
        self._machine.existing("logs")
        return await self._machine.logs(timestamps=timestamps)

    @on_portal
    async def wait_for_port(
        self, port: int, timeout: float = 30, *, protocol: Literal["tcp", "udp"] = "tcp"
    ) -> None:
        """Wait until something in the node listens on a port, IPv4 or IPv6; nothing connects to it.

        Like every wait: `timeout` is in seconds, times `--benchscale-timeout-scale`.

        Raises:
            WaitTimeout: nothing does; shows what listens instead.
            NodeDied: the node ended.
        """
        __tracebackhide__ = True
        await waits.for_port(self._machine, port, timeout, protocol)

    @on_portal
    async def wait_for_exec(
        self,
        command: CommandLike,
        timeout: float = 30,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePath | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        """Run a command again and again until it returns 0, and return that result.

        Raises:
            WaitTimeout: it never did; shows its last result.
            NodeDied: the node ended.
        """
        __tracebackhide__ = True
        shown, built = build_command(command, env, cwd, user)
        return await waits.for_exec(self._machine, shown, built, timeout)

    @on_portal
    async def wait_for_file(self, path: str | PurePath, timeout: float = 30) -> None:
        """Wait until there is something at a path in the node.

        Raises:
            WaitTimeout: there is not; shows what is beside it.
            NodeDied: the node ended.
        """
        __tracebackhide__ = True
        await waits.for_file(self._machine, node_path(path), timeout)

    @on_portal
    async def wait_for_log(
        self, pattern: str | re.Pattern[str], timeout: float = 30
    ) -> re.Match[str]:
        """Wait until a regex is found in the node's log; `^` and `$` are the ends of a line.

        Raises:
            WaitTimeout: it is not; shows the log's last lines.
            NodeDied: the node ended.
        """
        __tracebackhide__ = True
        return await waits.for_log(self._machine, pattern, timeout)

    def _require_source(self, path: Path) -> None:
        __tracebackhide__ = True
        if not os.path.lexists(path):
            raise LabError(
                f"put to node {self.name!r} failed: no such file here: {path}",
                node=self.name,
                step="put",
                details=None if path.is_absolute() else f"it was looked for in {Path.cwd()}",
            )

    def _require_parent(self, path: Path) -> None:
        __tracebackhide__ = True
        if not path.absolute().parent.is_dir():
            raise LabError(
                f"get from node {self.name!r} failed: no such directory here: {path.parent}",
                node=self.name,
                step="get",
                resolution="create the directory first",
            )
