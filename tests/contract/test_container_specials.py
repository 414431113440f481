"""Odd images, bad inputs, a daemon that is not ours alone: told clearly, and nothing of others is touched."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import BenchscaleError, Lab, LabError
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.errors import SubnetTaken
from pytest_benchscale.lab import plan as planning
from pytest_benchscale.topology.loader import load_text
from tests.daemons.endpoints import connection, find
from tests.daemons.images import reference

Open = Callable[..., AbstractAsyncContextManager[Lab]]

EACH = [
    pytest.param(name, marks=pytest.mark.daemon(name, images=["debian", "user"]))
    for name in ("docker", "podman")
]


@pytest.fixture(params=EACH)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(backend: str, tmp_path: Path) -> Open:
    """Bring a lab up; a node that names no image has the test image."""

    def open_lab(text: str, image: str = "debian") -> AbstractAsyncContextManager[Lab]:
        loaded = load_text(text, path=tmp_path / "topology.yaml")
        nodes = [
            node if node.image else node.model_copy(update={"image": reference(image)})
            for node in loaded.nodes
        ]
        return Lab.open(loaded.model_copy(update={"nodes": tuple(nodes)}), backend=backend)

    return open_lab


@pytest.fixture
def daemon(backend: str) -> Iterator[Any]:
    """The daemon as a user sees it who knows nothing of us."""
    with connection(find(backend)) as client:
        yield client


@pytest.fixture
def own(daemon: Any) -> Iterator[Callable[..., Any]]:
    """Make things that are the user's own: `own("networks", name)`; they are gone after the test."""
    made: list[Any] = []

    def make(kind: str, *arguments: object, **options: object) -> Any:
        thing = getattr(daemon, kind).create(*arguments, **options)
        made.append((kind, thing))
        return thing

    yield make
    for kind, thing in reversed(made):
        if kind == "containers":
            thing.remove(force=True, v=True)
        else:
            thing.remove()


async def refusal(lab: AbstractAsyncContextManager[Lab]) -> BenchscaleError:
    """Return the error of a lab that cannot come up."""
    with pytest.raises(BenchscaleError) as caught:
        async with lab:
            pytest.fail("the lab came up")
    return caught.value


# --- what cannot come up ---


async def test_an_unknown_image_is_named_with_its_cause_and_a_cure(opened: Open) -> None:
    began = time.monotonic()
    # Nobody listens there, as when one is offline.
    error = await refusal(opened("nodes: [{name: good}, {name: odd, image: '127.0.0.1:1/tool:3'}]"))
    assert time.monotonic() - began < 30
    assert isinstance(error, LabError)
    assert (error.node, error.step) == ("odd", "create")
    assert "'127.0.0.1:1/tool:3'" in error.brief
    assert "registry cannot be reached" in error.brief
    assert "--benchscale-image" in str(error.resolution)


async def test_a_port_that_another_program_has_is_told_with_who_has_it(opened: Open) -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = taken.getsockname()[1]
        error = await refusal(opened(f"nodes: [{{name: web, ports: ['{port}:80']}}]"))
    assert isinstance(error, LabError)
    assert error.node == "web"
    assert f"port {port} is taken" in error.brief
    assert "another program" in error.brief
    assert "`ports:`" in str(error.resolution)


async def test_a_subnet_of_a_network_of_the_users_own_is_told_with_its_name(
    opened: Open, own: Callable[..., Any]
) -> None:
    pool = {"Driver": "default", "Config": [{"Subnet": "10.213.7.0/24"}]}
    network = own("networks", "precious-net", ipam=pool)
    text = "{network: {name: lan, subnet: 10.213.7.128/25}, nodes: [{name: a}]}"
    error = await refusal(opened(text))
    assert isinstance(error, SubnetTaken)
    assert "network 'lan'" in error.brief
    assert "10.213.7.128/25" in error.brief
    assert "'precious-net'" in error.brief
    assert "`subnet:`" in str(error.resolution)
    network.reload()
    assert network.attrs["IPAM"]["Config"][0]["Subnet"] == "10.213.7.0/24"


async def test_a_subnet_of_another_lab_is_told_with_that_lab(opened: Open) -> None:
    text = "{network: {name: lan, subnet: 10.213.8.0/24}, nodes: [{name: a}]}"
    async with opened(text) as lab:
        error = await refusal(opened(text))
        assert isinstance(error, SubnetTaken)
        assert f"lab {lab.lab_id}" in error.brief
        assert (await lab["a"].exec("echo here")).stdout == "here\n"


async def test_a_container_that_ends_at_once_is_shown_with_its_output(opened: Open) -> None:
    text = (
        "nodes: [{name: bad, command: 'echo no licence 4711 >&2; exit 3', wait_for: [{port: 80}]}]"
    )
    error = await refusal(opened(text))
    assert "'bad'" in error.brief
    assert "exit code 3" in str(error)
    assert "no licence 4711" in str(error)
    assert error.resolution


async def test_a_container_of_the_users_own_by_the_same_name_is_told_and_untouched(
    opened: Open, own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "new_lab_id", lambda: "samename")
    container = own("containers", reference("debian"), name="benchscale-samename-a")
    container.start()
    error = await refusal(opened("nodes: [{name: a}, {name: b}]"))
    assert isinstance(error, LabError)
    assert error.node == "a"
    assert "benchscale-samename-a" in error.brief
    assert "in use" in error.brief
    assert error.resolution
    container.reload()
    assert container.status == "running"


# --- what belongs to others ---


async def test_what_only_looks_like_a_labs_is_untouched(
    opened: Open, own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "new_lab_id", lambda: "lookalike")
    networks = [
        own("networks", "benchscale-lookalike-1-lan"),
        own("networks", "benchscale-lookalike", labels={"benchscale.lab": "lookalike2"}),
    ]
    containers = [
        own(
            "containers",
            reference("debian"),
            name="benchscale-lookalike-ab",
            network=networks[0].name,
        ),
        own(
            "containers",
            reference("debian"),
            name="benchscale-lookalike",
            labels={"benchscale.lab": "lookalike2", "benchscale.node": "a"},
        ),
    ]
    volume = own("volumes", "benchscale-lookalike")
    for container in containers:
        container.start()
    async with opened("nodes: [{name: a}, {name: b}]") as lab:
        assert (await lab["a"].exec("hostname")).stdout == "a\n"
        await lab["b"].kill()
    await refusal(opened("nodes: [{name: a, setup: ['false']}]"))  # and a roll-back
    for thing in (*networks, *containers, volume):
        thing.reload()
    assert [container.status for container in containers] == ["running"] * 2


async def test_a_container_of_the_users_own_on_a_labs_network_is_untouched(
    opened: Open, own: Callable[..., Any], daemon: Any
) -> None:
    guest = own("containers", reference("debian"), name="guest-of-a-lab", network_mode="bridge")
    guest.start()
    async with opened("nodes: [{name: a}]") as lab:
        (network,) = daemon.networks.list(filters={"label": f"benchscale.lab={lab.lab_id}"})
        network.connect(guest)
        began, told = time.monotonic(), None
        try:
            await lab.down()
        except LabError as error:
            told = str(error)
            network.disconnect(guest)
            network.remove()
            await lab.down()  # now nothing is in the way
    assert time.monotonic() - began < 45
    # The guest was in the way: either it was put out of it, or it is said who it was.
    assert told is None or "guest-of-a-lab" in told
    guest.reload()
    assert guest.status == "running"


# --- odd nodes ---


async def test_an_image_with_a_user_of_its_own_takes_commands_and_files(
    opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("text")
    async with opened("nodes: [{name: a}]", image="user") as lab:
        a = lab["a"]
        assert (await a.exec("id -un; pwd")).stdout == "app\n/home/app\n"
        await a.put(tmp_path / "tree", "/home/app")
        await a.write_text("/home/app/new/deep", "deep")
        await a.exec("echo more >> tree/file", check=True)
        owners = await a.exec("stat -c %U tree tree/file new new/deep", check=True)
        assert owners.stdout.split() == ["app"] * 4
        await a.get("/home/app/tree", tmp_path / "back")
        assert (tmp_path / "back" / "file").read_text() == "textmore\n"
        assert (await a.exec("id -u", user="root")).stdout == "0\n"


async def test_where_a_nodes_user_may_not_write_it_is_told_with_the_place(
    opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("text")
    async with opened("nodes: [{name: a}]", image="user") as lab:
        for work in (
            lab["a"].write_text("/srv/file", "text"),
            lab["a"].put(tmp_path / "file", "/srv/file"),
        ):
            with pytest.raises(LabError, match="Permission denied") as caught:
                await work
            assert caught.value.node == "a"
            assert "/srv/file" in str(caught.value)
            assert "permissions" in str(caught.value.resolution)


async def test_where_a_node_is_read_only_it_is_told_with_the_place(
    opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "file").write_text("text")
    async with opened("nodes: [{name: a, volumes: ['./fixed:/srv:ro']}]") as lab:
        assert await lab["a"].read_text("/srv/file") == "text"
        for work in (
            lab["a"].write_text("/srv/file", "other"),
            lab["a"].put(tmp_path / "fixed", "/srv/new"),
        ):
            with pytest.raises(LabError, match="Read-only file system") as caught:
                await work
            assert caught.value.node == "a"
            assert "/srv" in str(caught.value)
            assert "choose another" in str(caught.value.resolution)
    assert (tmp_path / "fixed" / "file").read_text() == "text"


async def test_a_node_on_no_network_takes_commands_and_files_and_reaches_nobody(
    opened: Open,
) -> None:
    text = "{network: {name: lan}, nodes: [{name: alone, networks: []}, {name: other}]}"
    async with opened(text) as lab:
        alone, other = lab["alone"], lab["other"]
        assert (await alone.exec("ls /sys/class/net")).stdout == "lo\n"
        assert not alone.addresses
        await alone.write_text("/srv/file", "text")
        assert await alone.read_text("/srv/file") == "text"
        ping = ["ping", "-c", "1", "-W", "1", str(other.address)]
        assert not (await alone.exec(ping)).ok
        assert (await other.exec("hostname")).stdout == "other\n"
        await alone.restart()
        assert (await alone.exec("ls /sys/class/net")).stdout == "lo\n"
        with pytest.raises(LabError) as caught:
            _ = alone.address
        assert "alone" in str(caught.value)


# --- much output ---

NOISE = """
import sys, time
seconds, begun, count = float(sys.argv[1]), time.monotonic(), 0
while (passed := time.monotonic() - begun) < seconds:
    due = int(passed * 10000)
    sys.stdout.write("".join(f"line {number}\\n" for number in range(count, due)))
    sys.stdout.flush()
    count = due
    time.sleep(0.01)
print("end", count, flush=True)
"""


def count_of(lines: list[str]) -> int:
    """Return how many lines there are, all of them, in order."""
    count = int(lines[-1].removeprefix("end "))
    assert lines[:-1] == [f"line {number}" for number in range(count)]
    return count


async def test_ten_thousand_lines_a_second_come_through_exec_and_process(opened: Open) -> None:
    async with opened("nodes: [{name: a}]") as lab:
        await lab["a"].write_text("/srv/noise.py", NOISE)
        noise = ["python3", "/srv/noise.py", "3"]
        async with lab["a"].process(noise) as process:
            result = await lab["a"].exec(noise, check=True)
            # The newest of them are kept, and the last ones can be waited for.
            await process.wait_for_line("^end ", timeout=30)
            kept = [line async for line in process.stdout]
        assert count_of(result.stdout.splitlines()) > 20_000
        assert len(kept) == 10_000
        end = int(kept[-1].removeprefix("end "))
        assert kept[:-1] == [f"line {number}" for number in range(end - 9_999, end)]


async def test_ten_thousand_lines_a_second_can_be_read_as_they_come(opened: Open) -> None:
    async with opened("nodes: [{name: a}]") as lab:
        await lab["a"].write_text("/srv/noise.py", NOISE)
        async with lab["a"].process(["python3", "/srv/noise.py", "3"]) as process:
            lines = [line async for line in process.stdout]
            assert await process.wait(timeout=10) == 0
        assert count_of(lines) > 20_000


async def test_a_log_keeps_its_newest_part_and_does_not_fill_the_disk(
    opened: Open, tmp_path: Path
) -> None:
    loud = "yes 'a line of no interest' | head -n 2500000; echo finished; sleep 1000"
    text = f"""
        nodes:
          - name: a
            command: "{loud}"
            wait_for: [{{log: ^finished$, timeout: 120}}]
        """
    async with opened(text) as lab:
        began = time.monotonic()
        log = await lab["a"].logs()
        assert time.monotonic() - began < 15
        assert log.endswith("a line of no interest\nfinished\n")
        assert 1 << 20 < len(log) < 40 << 20
        assert lab["a"].status is NodeStatus.RUNNING
