"""Files, life and waits of a node, and what is said when something cannot be done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import LabError, NodeDied, NotSupported, WaitTimeout
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend
from tests.unit.lab.conftest import MakeLab


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab["a"]


async def test_a_node_knows_its_names_and_addresses(lab: Lab) -> None:
    node = lab["b"]
    assert (node.name, node.backend, node.spec) == ("b", "fake", lab.topology.node("b"))
    assert dict(node.addresses) == {"lan": node.address}
    assert dict(node.interfaces) == {"lan": "eth0"}
    assert node.address in lab.networks["lan"].subnet
    assert repr(node) == "<Node 'b' on 'fake'>"


# --- files ---


async def test_what_is_put_can_be_got_back(node: Node, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "run").write_bytes(b"\0binary")
    (tmp_path / "tree" / "sub" / "run").chmod(0o750)
    (tmp_path / "tree" / "link").symlink_to("sub/run")
    await node.put(tmp_path / "tree", "/srv")
    assert await node.read_bytes("/srv/tree/link") == b"\0binary"
    await node.get("/srv/tree", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "run").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "back" / "link").readlink() == Path("sub/run")


async def test_writing_makes_the_directories_above(node: Node) -> None:
    await node.write_text("/srv/a/b/file", "grün", mode=0o600)
    assert await node.read_text("/srv/a/b/file") == "grün"
    await node.write_bytes("/srv/a/b/file", b"\xff")
    assert await node.read_bytes("/srv/a/b/file") == b"\xff"


async def test_copying_does_not_make_the_directories_above(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"put on node 'a' failed: No such file[\s\S]*do not create"):
        await node.put(tmp_path / "file", "/srv/missing/file")


async def test_a_missing_file_here_is_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no such file here: .*missing") as caught:
        await node.put(tmp_path / "missing", "/srv")
    assert (caught.value.node, caught.value.step) == ("a", "put")
    with pytest.raises(LabError, match="it was looked for in /"):
        await node.put("missing", "/srv")


async def test_a_missing_file_there_is_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"get on node 'a' failed: No such file.*: /srv/missing"):
        await node.get("/srv/missing", tmp_path)
    with pytest.raises(LabError, match=r"read on node 'a' failed: No such file.*: /srv/missing"):
        await node.read_text("/srv/missing")


async def test_a_missing_directory_here_is_named(node: Node, tmp_path: Path) -> None:
    await node.write_text("/srv/file", "")
    with pytest.raises(LabError, match=r"no such directory here: .*missing"):
        await node.get("/srv/file", tmp_path / "missing" / "file")


async def test_a_read_only_place_is_named(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"Read-only file system: /proc/x[\s\S]*choose another"):
        await node.write_text("/proc/x", "")
    with pytest.raises(LabError, match="Read-only"):
        await node.put(tmp_path / "file", "/proc/x")


# --- life ---


async def test_a_stopped_node_keeps_its_files_and_addresses(node: Node) -> None:
    before = dict(node.addresses)
    await node.write_text("/srv/file", "kept")
    statuses = [node.status]
    await node.stop()
    statuses.append(node.status)
    await node.start()
    statuses.append(node.status)
    assert statuses == [NodeStatus.RUNNING, NodeStatus.STOPPED, NodeStatus.RUNNING]
    assert await node.read_text("/srv/file") == "kept"
    assert dict(node.addresses) == before


async def test_what_is_so_already_is_left_as_it_is(node: Node, script: Script) -> None:
    await node.start()
    await node.resume()
    await node.stop()
    await node.stop()
    await node.kill()
    await node.start()
    await node.pause()
    await node.pause()
    await node.resume()
    steps = [step for step in script.journal if step.endswith("_node a")]
    assert steps[1:] == ["stop_node a", "start_node a", "pause_node a", "resume_node a"]


async def test_restart_stops_and_starts(node: Node, script: Script) -> None:
    await node.restart()
    assert script.journal[-2:] == ["stop_node a", "start_node a"]


async def test_a_paused_node_is_resumed_to_be_stopped(node: Node, script: Script) -> None:
    await node.pause()
    assert node.status is NodeStatus.PAUSED
    await node.stop()
    assert script.journal[-2:] == ["resume_node a", "stop_node a"]


async def test_changes_of_one_node_come_one_after_the_other(node: Node, script: Script) -> None:
    script.delay("stop_node", 0.05)
    await asyncio.gather(node.restart(), node.restart())
    assert script.most_at_once == 2  # the two networks or nodes of the bring-up
    assert node.status is NodeStatus.RUNNING


async def test_a_dead_node_shows_in_its_status_and_can_be_started(node: Node) -> None:
    with pytest.raises(NodeDied):
        await node.exec("die")
    assert node.status is NodeStatus.DEAD
    await node.start()
    assert (await node.exec("echo back")).stdout == "back\n"


CALLS: list[Callable[[Node], Awaitable[object]]] = [
    lambda node: node.exec("true"),
    lambda node: node.read_text("/etc/hosts"),
    lambda node: node.write_text("/etc/hosts", ""),
    lambda node: node.put(__file__, "/tmp"),
    lambda node: node.get("/etc", "/tmp/never"),
    lambda node: node.process("true").__aenter__(),
    lambda node: node.wait_for_port(80),
    lambda node: node.wait_for_exec("true"),
    lambda node: node.wait_for_file("/etc"),
    lambda node: node.wait_for_log("x"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_on_a_stopped_node_says_so_at_once(
    node: Node, call: Callable[[Node], Awaitable[object]]
) -> None:
    await node.stop()
    with pytest.raises(LabError, match=r"node 'a' is stopped[\s\S]*await lab\['a'\]\.start\(\)"):
        await call(node)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_on_a_paused_node_says_so_at_once(
    node: Node, call: Callable[[Node], Awaitable[object]]
) -> None:
    await node.pause()
    with pytest.raises(LabError, match=r"node 'a' is paused[\s\S]*await lab\['a'\]\.resume\(\)"):
        await call(node)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_on_a_dead_node_says_so_at_once(
    node: Node, script: Script, call: Callable[[Node], Awaitable[object]], portal: Portal
) -> None:
    async def die() -> None:
        script.node("a").log = "so tired\n"
        script.node("a").die("of age")

    await portal.call(die)
    with pytest.raises(NodeDied, match=r"node 'a' died: of age\nso tired"):
        await call(node)
    with pytest.raises(NodeDied, match=r"node 'a' died: of age\nso tired"):
        await call(node)  # also once that is known


async def test_pausing_a_stopped_node_is_an_error(node: Node) -> None:
    await node.stop()
    with pytest.raises(LabError, match="is stopped: no pause possible"):
        await node.pause()


async def test_starting_a_paused_node_is_an_error(node: Node) -> None:
    await node.pause()
    with pytest.raises(LabError, match=r"paused, not stopped[\s\S]*resume"):
        await node.start()


async def test_a_node_is_not_there_before_the_lab_is_up_and_after_it_is_down(
    make_lab: MakeLab,
) -> None:
    lab = make_lab("a")
    for _ in range(2):
        with pytest.raises(LabError, match="its lab is not up"):
            await lab["a"].exec("true")
        with pytest.raises(LabError, match="its lab is not up"):
            _ = lab["a"].address
        with pytest.raises(LabError, match="its lab is not up"):
            await lab["a"].logs()
        assert lab["a"].status is NodeStatus.STOPPED
        if not lab.lab_id:
            await lab.up()
            await lab.down()


async def test_logs_can_be_read_of_a_stopped_node_too(node: Node) -> None:
    await node.exec("log hello")
    await node.stop()
    assert await node.logs() == "hello\n"


async def test_what_a_backend_lacks_is_said_with_its_name(portal: Portal, script: Script) -> None:
    backend = make_backend(script, "bare", frozenset())()
    lab = Lab(Topology.from_dict({"nodes": [{"name": "a"}]}), backend, portal=portal)
    await lab.up()
    node = lab["a"]
    for call in (node.stop, node.start, node.restart, node.kill):
        with pytest.raises(NotSupported, match="'bare' does not support stop and start"):
            await call()
    for call in (node.pause, node.resume):
        with pytest.raises(NotSupported, match="'bare' does not support pause and resume"):
            await call()
    with pytest.raises(NotSupported, match="'bare' does not support network conditions"):
        node.impair(latency_ms=5)
    with pytest.raises(NotSupported, match="'bare' does not support network conditions"):
        await node.set_conditions(latency_ms=5)
    with pytest.raises(NotSupported, match="'bare' does not support partitions"):
        lab.partition({"a"}, {"b"})
    await lab.heal()
    await lab.down()


# --- waits ---


@pytest.mark.parametrize("table", ["tcp", "tcp6", "udp", "udp6"])
async def test_wait_for_port_sees_a_port_of_either_ip_version(node: Node, table: str) -> None:
    async with node.process(f"sleep 0.05; listen {table} 8080"):
        protocol = table.removesuffix("6")
        assert protocol in {"tcp", "udp"}
        await node.wait_for_port(8080, timeout=5, protocol=protocol)  # type: ignore[arg-type]


async def test_wait_for_port_shows_what_listens_instead(node: Node) -> None:
    async with node.process("listen tcp 22 & listen tcp6 8000"):
        with pytest.raises(WaitTimeout, match=r"tcp port 80[\s\S]*listening on tcp: 22, 8000"):
            await node.wait_for_port(80, timeout=0.1)
        with pytest.raises(WaitTimeout, match="listening on udp: nothing"):
            await node.wait_for_port(80, timeout=0.1, protocol="udp")


@pytest.mark.parametrize("port", [0, 65536, -1, "80", True, 80.0])
async def test_wait_for_port_takes_a_port(node: Node, port: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        await node.wait_for_port(port)


async def test_wait_for_exec_repeats_a_command_until_it_succeeds(node: Node) -> None:
    async with node.process("sleep 0.1; touch /srv/ready"):
        result = await node.wait_for_exec("test -e /srv/ready && echo yes", timeout=5)
    assert result.stdout == "yes\n"


async def test_wait_for_exec_shows_the_last_result(node: Node) -> None:
    with pytest.raises(
        WaitTimeout, match=r"success of [\s\S]*exit code 3\n--- stdout ---\nnot yet"
    ):
        await node.wait_for_exec("echo not yet; exit 3", timeout=0.1)


async def test_wait_for_exec_ends_a_command_that_hangs_and_shows_its_output(node: Node) -> None:
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"still running\n--- stdout ---\ntrying"):
        await node.wait_for_exec("echo trying; sleep 100", timeout=0.2)
    assert time.monotonic() - started < 3


async def test_wait_for_file_waits_for_any_kind_of_file(node: Node) -> None:
    await node.wait_for_file("/srv")
    async with node.process("sleep 0.05; touch /srv/file"):
        await node.wait_for_file("/srv/file", timeout=5)


async def test_wait_for_file_shows_what_is_beside_it(node: Node) -> None:
    await node.write_text("/srv/other", "")
    with pytest.raises(WaitTimeout, match=r"the file /srv/file[\s\S]*other"):
        await node.wait_for_file("/srv/file", timeout=0.1)
    with pytest.raises(WaitTimeout, match="/nowhere"):
        await node.wait_for_file("/nowhere/file", timeout=0.1)


async def test_wait_for_log_finds_a_regex_by_line(node: Node) -> None:
    async with node.process("log starting; sleep 0.05; log port 80 open"):
        assert (await node.wait_for_log(r"^port (\d+)", timeout=5))[1] == "80"


async def test_wait_for_log_shows_the_last_lines(node: Node) -> None:
    await node.exec("log one; log two")
    with pytest.raises(WaitTimeout, match=r"'three' in the log[\s\S]*one\ntwo"):
        await node.wait_for_log("three", timeout=0.1)


@pytest.mark.parametrize("call", CALLS[6:])
async def test_a_wait_ends_at_once_when_the_node_dies(
    node: Node, call: Callable[[Node], Awaitable[object]]
) -> None:
    waits: list[Callable[[], Awaitable[object]]] = [
        lambda: node.wait_for_port(80, timeout=60),
        lambda: node.wait_for_exec("false", timeout=60),
        lambda: node.wait_for_file("/never", timeout=60),
        lambda: node.wait_for_log("never", timeout=60),
    ]
    async with node.process("sleep 0.1; log help me; die young"):
        with pytest.raises(NodeDied, match=r"young[\s\S]*help me"):
            await waits[CALLS.index(call) - 6]()


async def test_waits_are_not_in_the_history(lab: Lab) -> None:
    await lab["a"].wait_for_exec("true")
    await lab["a"].wait_for_file("/etc")
    assert not lab.history


async def test_waits_are_scaled_and_commands_are_not(make_lab: MakeLab) -> None:
    lab = make_lab("a", options=LabOptions(timeout_scale=3))
    await lab.up()
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"waited 0\.3 s"):
        await lab["a"].wait_for_port(80, timeout=0.1)
    assert time.monotonic() - started >= 0.3
    with pytest.raises(Exception, match=r"after 0\.1 s"):
        await lab["a"].exec("sleep 9", timeout=0.1)
    await lab.down()


# --- without await ---


def test_the_sync_face_does_it_all_without_await(
    make_lab: MakeLab, portal: Portal, tmp_path: Path
) -> None:
    lab = make_lab("a", "b")
    portal.call_blocking(lab.up)
    sync = lab.sync
    assert (sync.name, sync.backend, sync.topology) == (lab.name, "fake", lab.topology)
    assert list(sync.nodes) == ["a", "b"]
    assert list(sync.networks) == ["lan"]
    assert sync.exec("hostname")["b"].stdout == "b\n"
    sync.heal()
    node = sync["a"]
    assert (node.name, node.backend, node.spec) == ("a", "fake", lab["a"].spec)
    assert (node.address, node.addresses) == (lab["a"].address, lab["a"].addresses)
    assert node.interfaces == {"lan": "eth0"}
    assert node.exec("cat", input="x", check=True).stdout == "x"
    node.write_text("/srv/file", "text")
    node.get("/srv/file", tmp_path / "file")
    node.put(tmp_path / "file", "/srv/copy")
    assert node.read_text("/srv/copy") == "text"
    assert node.read_bytes("/srv/copy") == b"text"
    node.wait_for_file("/srv/copy")
    node.stop()
    assert node.status is NodeStatus.STOPPED
    node.start()
    with node.process("echo up; log it; cat", stdin=True) as process:
        assert process.wait_for_line("up").string == "up"
        process.write("more\n")
        process.close_stdin()
        assert list(process.stdout) == ["up", "more"]
        assert process.wait(timeout=5) == process.returncode == 0
    assert node.wait_for_log("it").string == "it\n"
    with pytest.raises(LabError, match="did you mean 'a'"):
        sync["aa"]
    portal.call_blocking(lab.down)
