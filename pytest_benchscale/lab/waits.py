"""Waiting for something on a node, with an end: it happened, the node died, or the time is over."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import anyio

from pytest_benchscale.errors import CommandTimeout, NodeDied, WaitTimeout
from pytest_benchscale.lab.arguments import check_timeout
from pytest_benchscale.lab.machine import Machine, last_lines
from pytest_benchscale.results import ExecResult
from pytest_benchscale.transports.base import Command, Transport
from pytest_benchscale.transports.execution import KILL_DEADLINE

__all__ = ["for_exec", "for_file", "for_log", "for_port"]

T = TypeVar("T")

POLL_INTERVAL = 0.03
"""Seconds between two looks; there is no event to wait for."""

_PROBE_DEADLINE = 30.0  # seconds for one small command
_UNCONNECTED = {"tcp": "0A", "udp": "07"}
"""States in /proc/net: a listening TCP socket, a UDP socket without a peer (net/tcp_states.h)."""


async def for_port(
    machine: Machine, port: int, timeout: float, protocol: Literal["tcp", "udp"]
) -> None:
    """Wait until something listens on a port."""
    __tracebackhide__ = True
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(f"a port is a number from 1 to 65535, not {port!r}")
    if protocol not in _UNCONNECTED:
        raise ValueError(f"a protocol is 'tcp' or 'udp', not {protocol!r}")

    async def look() -> tuple[bool | None, str]:
        ports = await _listening_ports(await machine.way_in("wait_for_port"), protocol)
        listed = ", ".join(map(str, sorted(ports))) or "nothing"
        return port in ports or None, f"listening on {protocol}: {listed}"

    await _until(machine, look, f"{protocol} port {port}", timeout)


async def for_exec(
    machine: Machine, shown: str | tuple[str, ...], command: Command, timeout: float
) -> ExecResult:
    """Run a command until it returns 0."""
    __tracebackhide__ = True
    end = anyio.current_time() + machine.context.scaled(timeout)
    ended = ""  # how the last attempt went that was not cut short

    async def look() -> tuple[ExecResult | None, str]:
        nonlocal ended
        left = max(end - anyio.current_time(), POLL_INTERVAL)
        try:
            result = await machine.run(shown, command, timeout=left, recorded=False)
        except CommandTimeout as exc:
            return None, ended or f"it was still running\n{exc.result.output_excerpt()}"
        ended = f"{result.outcome}\n{result.output_excerpt()}"
        return result if result.ok else None, ended

    line = ExecResult(shown, 0, b"", b"", 0.0).command_line
    # The slack lets the last attempt be killed, and tell what it wrote.
    return await _until(machine, look, f"success of {line}", timeout, slack=2 * KILL_DEADLINE)


async def for_file(machine: Machine, path: str, timeout: float) -> None:
    """Wait until there is something at a path."""
    __tracebackhide__ = True

    async def look() -> tuple[bool | None, str]:
        result = await _run_quietly(machine, "test", "-e", path)
        if result.ok:
            return True, ""
        listing = await _run_quietly(machine, "ls", "-la", "--", posixpath.dirname(path) or ".")
        return None, f"not there; beside it:\n{listing.output_excerpt()}"

    await _until(machine, look, f"the file {path}", timeout)


async def for_log(
    machine: Machine, pattern: str | re.Pattern[str], timeout: float
) -> re.Match[str]:
    """Wait until a regex is found in the node's log."""
    __tracebackhide__ = True
    regex = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern

    async def look() -> tuple[re.Match[str] | None, str]:
        log = await machine.logs()
        return regex.search(log), f"its log ends with\n{last_lines(log)}"

    return await _until(machine, look, f"{regex.pattern!r} in the log", timeout)


async def _until(
    machine: Machine,
    look: Callable[[], Awaitable[tuple[T | None, str]]],
    awaited: str,
    timeout: float,
    *,
    slack: float = 0.0,
) -> T:
    """Look until there is something to see, and return it; `look` returns None and what it saw else.

    Raises:
        WaitTimeout: there was nothing for `timeout` seconds, times the scale.
        NodeDied, LabError: there is no running node to look at.
    """
    __tracebackhide__ = True
    check_timeout(timeout)
    seconds = machine.context.scaled(timeout)
    end = anyio.current_time() + seconds
    state = "nothing, the first look took too long"
    with anyio.move_on_after(seconds + slack):
        while True:
            await machine.require_alive()
            try:
                seen, state = await look()
            except OSError as exc:
                seen, state = None, str(exc)
            except NodeDied as exc:
                raise await machine.explain(exc, f"waiting for {awaited}") from None
            if seen is not None:
                return seen
            if anyio.current_time() >= end:
                break
            await anyio.sleep(POLL_INTERVAL)
    raise WaitTimeout(awaited, seconds, state, node=machine.name)


async def _run_quietly(machine: Machine, *argv: str) -> ExecResult:
    return await machine.run(argv, Command(argv), timeout=_PROBE_DEADLINE, recorded=False)


async def _listening_ports(transport: Transport, protocol: str) -> set[int]:
    """Return the ports on which something in the node listens.

    Read from the kernel's tables: no connection is made, and no program needed in the node.
    """
    ports: set[int] = set()
    for table in (protocol, f"{protocol}6"):
        for line in (await _read_table(transport, table)).splitlines()[1:]:
            # "sl local_address rem_address st ...", an address being HEXADDRESS:HEXPORT
            fields = line.split()
            if len(fields) > 3 and fields[3] == _UNCONNECTED[protocol]:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


async def _read_table(transport: Transport, table: str) -> str:
    try:
        content = await transport.read_bytes(f"/proc/net/{table}")
    except FileNotFoundError:
        # /proc/net leads through /proc/self, which a reader from outside the node does not have.
        try:
            content = await transport.read_bytes(f"/proc/1/net/{table}")
        except FileNotFoundError:
            if table.endswith("6"):
                return ""  # a kernel without IPv6
            raise
    return content.decode("ascii", "replace")
