"""Machines that are there already: odd and broken sshds, restarts, the lock, and that nothing is left."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import CommandTimeout, Lab, LabError, Node, NotSupported, Topology
from pytest_benchscale.lab.options import LabOptions
from tests.contract.sshd_machines import Keys, Road, needs_sshd, road, sshd

pytestmark = needs_sshd

MIB = 1 << 20


class Machine:
    """A machine with an sshd, and the road to it."""

    def __init__(self, ground: Lab, keys: Keys, stack: ExitStack) -> None:
        self.node: Node = ground["machine"]
        self.keys = keys
        self.road: Road = stack.enter_context(road(self.node))
        self._stack = stack
        self._sshd = ExitStack()
        stack.push(self._sshd)

    def serve(self, more: str = "") -> None:
        """Start its sshd."""
        self._sshd.enter_context(sshd(self.node, self.keys, more))

    def end_sshd(self) -> None:
        """End its sshd and everything it started."""
        self._sshd.close()

    def topology(self, **ssh: object) -> Topology:
        """Return a topology of it; `ssh` wins over what works."""
        login = {"user": "root", "key": str(self.keys.user), "known_hosts": "none", **ssh}
        there = {
            "existing": "there",
            "address": "127.0.0.1",
            "ssh": {"port": self.road.port, **login},
        }
        return Topology.from_dict(
            {"metadata": {"name": "there"}, "nodes": [{"name": "machine", **there}]}
        )

    def open(self, scale: float = 1.0, **ssh: object) -> Lab:
        """Bring a lab up on it; it is taken down with the machine."""
        options = LabOptions(timeout_scale=scale)
        topology = self.topology(**ssh)
        return self._stack.enter_context(Lab.open_sync(topology, backend="ssh", options=options))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def machine(keys: Keys) -> Iterator[Machine]:
    bare = Topology.from_dict({"metadata": {"name": "ground"}, "nodes": [{"name": "machine"}]})
    with Lab.open_sync(bare, backend="local") as ground, ExitStack() as stack:
        yield Machine(ground, keys, stack)


# --- sshds of all kinds ---


@pytest.mark.parametrize("most", [1, 2])
async def test_more_commands_at_once_than_a_connection_may_carry(
    machine: Machine, most: int
) -> None:
    machine.serve(f"MaxSessions {most}")
    node = machine.open()["machine"]
    results = await asyncio.gather(*(node.exec(f"sleep 0.5; echo {i}") for i in range(20)))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(20)]


async def test_an_sshd_that_carries_no_command_is_an_error_that_says_so(machine: Machine) -> None:
    machine.serve("MaxSessions 0")
    with pytest.raises(LabError, match="MaxSessions"):
        machine.open()


async def test_an_sshd_that_is_slow_to_greet_is_waited_for(machine: Machine) -> None:
    machine.serve()
    machine.road.slowness = 3.0
    assert (await machine.open()["machine"].exec("echo there")).stdout == "there\n"


def test_what_never_greets_is_an_error_in_time(machine: Machine) -> None:
    machine.serve()
    machine.road.block()
    started = time.monotonic()
    with pytest.raises(LabError, match="did not answer as an sshd"):
        machine.open(scale=0.1)
    assert time.monotonic() - started < 10


def test_nobody_listening_is_an_error_at_once(machine: Machine) -> None:
    started = time.monotonic()
    with pytest.raises(LabError, match=rf"127\.0\.0\.1:{machine.road.port}"):
        machine.open()
    assert time.monotonic() - started < 10


def test_a_name_of_no_machine_is_an_error_that_names_it(machine: Machine) -> None:
    topology = machine.topology()
    node = topology.nodes[0].model_copy(update={"address": "no-such-machine.invalid"})
    with (
        pytest.raises(LabError, match=r"no-such-machine\.invalid"),
        Lab.open_sync(topology.model_copy(update={"nodes": (node,)}), backend="ssh"),
    ):
        pass


async def test_a_login_by_password(machine: Machine) -> None:
    machine.serve("PasswordAuthentication yes")
    machine.node.sync.exec("echo root:right | chpasswd", check=True)
    node = machine.open(password="right", key=None)["machine"]
    assert (await node.exec(["id", "-u"])).stdout == "0\n"


async def test_a_login_by_the_agent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.serve()
    with tempfile.TemporaryDirectory() as directory:  # short: it is the path of a socket
        socket = f"{directory}/agent"
        monkeypatch.setenv("HOME", directory)
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        with subprocess.Popen(
            ["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL
        ) as agent:
            try:
                async with asyncio.timeout(10):
                    while not Path(socket).exists():
                        await asyncio.sleep(0.01)
                add = ["ssh-add", "-q", str(machine.keys.user)]
                subprocess.run(add, check=True, timeout=10)
                assert (await machine.open(key=None)["machine"].exec("true")).ok
            finally:
                agent.terminate()


def test_a_refused_password_is_an_error_that_does_not_show_it(machine: Machine) -> None:
    machine.serve("PasswordAuthentication yes")
    machine.node.sync.exec("echo root:right | chpasswd", check=True)
    with pytest.raises(LabError, match=r"refused the login for 'root' with the password") as caught:
        machine.open(password="opensesame", key=None)
    assert "opensesame" not in f"{caught.value!s} {caught.value!r}"


def test_a_refused_key_is_an_error_that_names_it(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    other = Keys(tmp_path)
    with pytest.raises(LabError, match=rf"refused the login .* the key {other.user}"):
        machine.open(key=str(other.user))


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_cannot_be_read_is_an_error_that_names_it(
    machine: Machine, tmp_path: Path, content: str | None
) -> None:
    machine.serve()
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(LabError, match=rf"the key {tmp_path / 'key'} cannot be used"):
        machine.open(key=str(tmp_path / "key"))


async def test_a_host_key_that_is_known(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    known = _known_hosts(tmp_path, machine.road.port, machine.keys.public(machine.keys.host))
    node = machine.open(known_hosts=str(known))["machine"]
    assert (await node.exec("true")).ok


def test_a_host_key_that_has_changed_is_an_error(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    known = _known_hosts(tmp_path, machine.road.port, machine.keys.public(machine.keys.user))
    with pytest.raises(LabError, match="host key") as caught:
        machine.open(known_hosts=str(known))
    assert str(known) in str(caught.value)


def test_without_a_word_of_it_the_users_own_known_hosts_count(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    machine.serve()
    with pytest.raises(LabError, match="host key"):
        machine.open(known_hosts=None)
    (tmp_path / ".ssh").mkdir()
    key = machine.keys.public(machine.keys.host)
    _known_hosts(tmp_path / ".ssh", machine.road.port, key)
    machine.open(known_hosts=None)


def test_a_login_without_a_shell_is_an_error_that_says_so(machine: Machine) -> None:
    machine.node.sync.exec("usermod -s /bin/false root", check=True)
    machine.serve()
    with pytest.raises(LabError, match="machine"):
        machine.open()


async def test_a_login_that_talks_disturbs_nothing(machine: Machine) -> None:
    machine.serve("Banner /etc/passwd")
    talk = "echo hello there; echo and here >&2\n"
    machine.node.sync.write_text("/root/.bashrc", talk)
    machine.node.sync.exec("usermod -s /bin/bash root", check=True)
    node = machine.open()["machine"]
    result = await node.exec("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)


def test_a_file_that_says_where_a_machine_is_needs_to_say_no_more(
    machine: Machine, tmp_path: Path
) -> None:
    machine.serve()
    shutil.copy(machine.keys.user, tmp_path / "key")
    port, known = machine.road.port, machine.keys.public(machine.keys.host)
    _known_hosts(tmp_path, port, known)
    ssh = f"{{user: root, port: {port}, key: ./key, known_hosts: ./known_hosts}}"
    path = tmp_path / "there.yaml"
    path.write_text(f"nodes: [{{name: a, existing: b, address: 127.0.0.1, ssh: {ssh}}}]")
    with Lab.open_sync(path) as lab:
        assert lab.backend == "ssh"
        assert lab.sync["a"].exec("true").ok


# --- users ---


async def test_a_command_as_another_user(machine: Machine) -> None:
    machine.serve()
    node = machine.open()["machine"]
    assert (await node.exec(["id", "-un"], user="nobody")).stdout == "nobody\n"
    unknown = await node.exec(["id", "-un"], user="nosuchuser")
    assert unknown.returncode == 126
    assert "nosuchuser" in unknown.stderr


async def test_an_ordinary_user_may_run_only_as_itself(machine: Machine) -> None:
    machine.node.sync.exec("useradd -m worker -s /bin/sh && passwd -d worker", check=True)
    machine.serve()
    node = machine.open(user="worker")["machine"]
    assert (await node.exec(["id", "-un"])).stdout == "worker\n"
    assert (await node.exec(["id", "-un"], user="worker")).stdout == "worker\n"
    refused = await node.exec(["id", "-un"], user="root")
    assert refused.returncode in {126, 127}
    assert "sudo" in refused.stderr


# --- connections that break ---


async def test_a_connection_that_is_cut_fails_the_command_and_not_the_next(
    machine: Machine,
) -> None:
    machine.serve()
    node = machine.open()["machine"]
    running = asyncio.ensure_future(node.exec("echo begun; sleep 1000"))
    await node.exec("until pgrep -x sleep; do sleep 0.1; done", timeout=10, check=True)
    machine.road.cut()
    started = time.monotonic()
    with pytest.raises(LabError, match="connection to node 'machine' was lost"):
        await running
    assert time.monotonic() - started < 5
    assert (await node.exec("echo again")).stdout == "again\n"
    assert not (await machine.node.exec("pgrep -x sleep")).stdout  # its end was seen to


async def test_what_is_killed_takes_no_connection_with_it(machine: Machine) -> None:
    machine.serve()
    node = machine.open()["machine"]
    await node.exec("true", check=True)
    connections = "pgrep -f '[s]shd: .*@notty'"
    before = (await machine.node.exec(connections, check=True)).stdout
    with pytest.raises(CommandTimeout):
        await node.exec("sleep 1000 & sleep 1000", timeout=1)
    assert (await node.exec("echo again")).stdout == "again\n"
    assert (await machine.node.exec(connections)).stdout == before


async def test_a_connection_that_is_cut_fails_the_copy_and_not_the_next(
    machine: Machine, tmp_path: Path
) -> None:
    machine.serve()
    node = machine.open()["machine"]
    await node.exec("true", check=True)
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(2000 * MIB)
    copying = asyncio.ensure_future(node.put(big, "/tmp/big"))
    await machine.node.exec('until [ -n "$(find /tmp -size +1M)" ]; do sleep 0.02; done')
    machine.road.cut()
    with pytest.raises(LabError, match="machine"):
        await asyncio.wait_for(copying, 20)
    big.write_bytes(b"x" * MIB)
    await node.put(big, "/tmp/small")
    assert await node.read_bytes("/tmp/small") == b"x" * MIB


async def test_a_machine_that_falls_silent_fails_the_command_in_time(machine: Machine) -> None:
    machine.serve()
    node = machine.open(scale=0.4)["machine"]
    running = asyncio.ensure_future(node.exec("sleep 1000", timeout=None))
    await node.exec("until pgrep -x sleep; do sleep 0.1; done", timeout=10, check=True)
    machine.road.block()
    started = time.monotonic()
    with pytest.raises(LabError, match="connection to node 'machine' was lost"):
        await asyncio.wait_for(running, 40)
    assert time.monotonic() - started < 30  # it is tried to end the command, too
    machine.road.unblock()
    assert (await node.exec("echo again")).stdout == "again\n"


async def seen_to_be_cut(node: Node) -> None:
    """Wait until our end of a node's connections has seen that they are no more."""
    transport: Any = node._machine._transport
    async with asyncio.timeout(20):
        while not all(one.is_closed() for one in transport._connections._open):
            await asyncio.sleep(0.01)


async def test_a_machine_that_starts_again_is_waited_for(machine: Machine) -> None:
    machine.serve()
    node = machine.open()["machine"]
    await node.exec("true", check=True)
    await asyncio.to_thread(machine.end_sshd)
    machine.road.cut()
    await seen_to_be_cut(node)  # what is sent before fails: it may have been done
    again = asyncio.ensure_future(node.exec("echo again"))
    await asyncio.sleep(1)  # while nothing listens
    assert not again.done()
    await asyncio.to_thread(machine.serve)
    assert (await again).stdout == "again\n"


async def test_a_machine_that_does_not_come_back_is_an_error(machine: Machine) -> None:
    machine.serve()
    node = machine.open(scale=0.05)["machine"]
    await asyncio.to_thread(machine.end_sshd)
    machine.road.cut()
    with pytest.raises(LabError, match=rf"127\.0\.0\.1:{machine.road.port}"):
        await node.exec("true")


# --- one lab at a time, and nothing left ---


async def test_a_machine_in_use_is_waited_for(machine: Machine) -> None:
    machine.serve()
    options = LabOptions(timeout_scale=0.05)
    async with Lab.open(machine.topology(), backend="ssh") as first:
        with pytest.raises(LabError, match="another lab uses this machine"):
            async with Lab.open(machine.topology(), backend="ssh", options=options):
                pass
        await first["machine"].exec("true", check=True)
        waiting = asyncio.ensure_future(_run_in_a_lab(machine.topology(), "echo second"))
        await machine.node.exec("until pgrep -f 'flock -w'; do sleep 0.1; done", check=True)
        assert not waiting.done()
    assert await asyncio.wait_for(waiting, 20) == "second\n"


async def test_a_machine_whose_connection_broke_is_still_ours(machine: Machine) -> None:
    machine.serve()
    options = LabOptions(timeout_scale=0.05)
    async with Lab.open(machine.topology(), backend="ssh") as first:
        machine.road.cut()
        with suppress(LabError):  # when the end of the connection was not known yet
            await first["machine"].exec("true")
        await first["machine"].exec("true", check=True)
        with pytest.raises(LabError, match="another lab uses this machine"):
            async with Lab.open(machine.topology(), backend="ssh", options=options):
                pass


async def test_our_own_lock_that_outlived_its_connection_does_not_keep_us_out(
    machine: Machine,
) -> None:
    machine.serve()
    node = machine.open(scale=0.4)["machine"]
    machine.road.block()  # the sshd does not learn of the end
    with pytest.raises(LabError):
        await node.exec("true", timeout=20)
    machine.node.sync.exec("pgrep -f benchscale-lock", check=True)
    machine.road.unblock()
    assert (await node.exec("echo again")).stdout == "again\n"


async def test_a_lab_leaves_the_machine_as_it_was(machine: Machine) -> None:
    machine.serve()
    files = (
        "find / -xdev -newer /etc/ssh/benchscale_config -not -path '/proc/*' -not -path '/sys/*'"
    )
    processes = "ps -eo args | grep -v -e 'ps -eo' -e 'grep -v' | sort"
    before = await _seen(machine.node, files, processes)
    async with Lab.open(machine.topology(), backend="ssh") as lab:
        await asyncio.gather(*(lab["machine"].exec(f"echo {i}") for i in range(20)))
        async with lab["machine"].process("sleep 1000"):
            pass
    async with asyncio.timeout(10):
        while await _seen(machine.node, files, processes) != before:
            await asyncio.sleep(0.1)


# --- what cannot be ---


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"image": "debian-12"}, "image"),
        ({"memory_mb": 512}, "memory_mb"),
        ({"ports": ["8080:80"]}, "ports"),
        ({"volumes": ["/tmp:/mnt"]}, "volumes"),
        ({"command": ["sleep", "1"]}, "command"),
        ({"address": None}, "address"),
    ],
)
def test_what_a_machine_that_is_there_cannot_be_given(
    declared: dict[str, object], words: str
) -> None:
    node = {"name": "machine", "existing": "there", "address": "127.0.0.1", **declared}
    topology = Topology.from_dict({"metadata": {"name": "there"}, "nodes": [node]})
    with (
        pytest.raises((LabError, NotSupported), match=rf"(?s)'ssh' .*'machine'.*{words}"),
        Lab.open_sync(topology, backend="ssh"),
    ):
        pass


def _known_hosts(directory: Path, port: int, key: str) -> Path:
    path = directory / "known_hosts"
    path.write_text(f"[127.0.0.1]:{port} {key}")
    return path


async def _run_in_a_lab(topology: Topology, command: str) -> str:
    async with Lab.open(topology, backend="ssh") as lab:
        return (await lab["machine"].exec(command)).stdout


async def _seen(node: Node, *commands: str) -> list[str]:
    return [(await node.exec(command)).stdout for command in commands]
