"""The way through another machine, which is a real ssh server in this process that forwards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_asyncio

from pytest_benchscale.backends.libvirt.knocking import Door, Knocker
from pytest_benchscale.transports.ssh.connections import connect
from pytest_benchscale.transports.ssh.jump import Jump
from pytest_benchscale.transports.ssh.login import HostKeys, Login, LoginFailed

pytestmark = pytest.mark.asyncio


class Forwarder(asyncssh.SSHServer):
    """Lets everybody in, and forwards unless it is told not to."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Count it."""
        self._connection = conn
        self._machine.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        """Ask for nothing."""
        return False

    async def _forward(self, host: str, port: int) -> Any:
        await self._machine.free.wait()
        return await self._connection.forward_connection(host, port)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        """Forward, in its own time."""
        if not self._machine.forwards:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "it may not")
        return self._forward(dest_host, dest_port)


class Machine:
    """A machine that others are reached from."""

    def __init__(self) -> None:
        self.forwards = True
        self.free = asyncio.Event()
        self.free.set()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.behind: list[asyncio.Task[Any] | None] = []
        self.port_behind = 0
        self.port = 0

    async def ended(self) -> None:
        """Return when all connections to the machine behind it have ended."""
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for task in self.behind if task is not None))

    def jump(self, **changes: Path) -> Jump:
        """Return the way through it."""
        keys = HostKeys(pinned=self.key.export_public_key())
        if changes:
            keys = HostKeys(path=changes["known_hosts"])
        login = Login("127.0.0.1", self.port, user="somebody", host_keys=keys)
        return Jump(login, connect, lambda failed: "do something")


@pytest_asyncio.fixture
async def machine() -> AsyncIterator[Machine]:
    """Run one, with another behind it that says what an sshd says first."""
    machine = Machine()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine.behind.append(asyncio.current_task())
        writer.write(b"SSH-2.0-other\r\n")
        with suppress(OSError):
            await reader.read()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as behind:
        machine.port_behind = behind.sockets[0].getsockname()[1]
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: Forwarder(machine),
            server_host_keys=[machine.key],
        )
        machine.port = server.get_port()
        yield machine
        server.close()
        for connection in machine.connections:
            connection.abort()
            await connection.wait_closed()
        await server.wait_closed()
        await machine.ended()


async def test_many_ports_are_reached_by_one_login(machine: Machine) -> None:
    jump = machine.jump()
    for _ in range(3):
        reader, hang_up = await jump.open("127.0.0.1", machine.port_behind)
        assert (await reader.readline()).startswith(b"SSH-2.0-other")
        hang_up()
    assert len(machine.connections) == 1
    jump.close()


async def test_who_asks_at_once_shares_the_login(machine: Machine) -> None:
    jump = machine.jump()
    await asyncio.gather(*(jump.open("127.0.0.1", machine.port_behind) for _ in range(5)))
    assert len(machine.connections) == 1
    jump.close()


async def test_a_login_that_was_lost_is_made_again(machine: Machine) -> None:
    jump = machine.jump()
    reader, _ = await jump.open("127.0.0.1", machine.port_behind)
    assert await reader.readline()
    machine.connections[0].abort()
    with pytest.raises(asyncssh.Error):
        await reader.readline()
    reader, _ = await jump.open("127.0.0.1", machine.port_behind)
    assert await reader.readline()
    assert len(machine.connections) == 2
    jump.close()


async def test_a_port_that_refuses_is_told_as_one_of_this_machine_is(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    jump = machine.jump()
    with pytest.raises(OSError, match=str(port)):
        await jump.open("127.0.0.1", port)
    await jump.require_forwarding("127.0.0.1", port)
    jump.close()


async def test_a_machine_that_forwards_nothing_is_told(machine: Machine) -> None:
    machine.forwards = False
    jump = machine.jump()
    with pytest.raises(
        LoginFailed, match=r"forwards no connection to 127\.0\.0\.1:7: it may not"
    ) as caught:
        await jump.require_forwarding("127.0.0.1", 7)
    assert not caught.value.passing
    assert "AllowTcpForwarding" in caught.value.resolution
    with pytest.raises(LoginFailed, match="forwards no connection"):
        await Knocker("127.0.0.1", 7, jump).until(Door.OPEN)
    jump.close()


async def test_a_machine_whose_key_is_not_known_is_told(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    jump = machine.jump(known_hosts=tmp_path / "known")
    with pytest.raises(LoginFailed, match=r"the way leads through somebody@.* host key") as caught:
        await jump.connected()
    assert caught.value.resolution == "do something"


async def test_nothing_goes_through_one_that_was_let_go_of(machine: Machine) -> None:
    jump = machine.jump()
    reader, _ = await jump.open("127.0.0.1", machine.port_behind)
    await reader.readline()
    jump.close()
    with pytest.raises(LoginFailed, match="let go of"):
        await jump.open("127.0.0.1", machine.port_behind)
    await machine.ended()


async def test_a_channel_that_opens_after_everybody_gave_up_is_closed(machine: Machine) -> None:
    jump = machine.jump()
    await jump.connected()
    machine.free.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await jump.open("127.0.0.1", machine.port_behind)
    machine.free.set()
    async with asyncio.timeout(5):
        while not machine.behind:
            await asyncio.sleep(0.01)
        await machine.ended()
    assert len(machine.connections) == 1
    jump.close()


async def test_a_door_is_found_behind_it(machine: Machine) -> None:
    jump = machine.jump()
    async with asyncio.timeout(5):
        found = await Knocker("127.0.0.1", machine.port_behind, jump).until(Door.OPEN)
    assert found is Door.OPEN
    jump.close()


async def test_what_the_users_ssh_config_says_of_it_counts(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(
        f"Host elsewhere\n HostName 127.0.0.1\n Port {machine.port}\n User configured\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    login = Login("elsewhere", host_keys=HostKeys(unchecked=True), reads_config=True)
    jump = Jump(login, connect, lambda failed: "do something")
    connection = await jump.connected()
    assert connection.get_extra_info("username") == "configured"
    jump.close()
