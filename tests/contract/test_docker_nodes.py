"""What is special to nodes that are Docker containers."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from pytest_benchscale import BenchscaleError, LabError, NodeDied
from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.lab import plan as planning
from tests.contract.docker_labs import containers, daemon, networks, opened
from tests.daemons.images import reference

pytestmark = [pytest.mark.daemon("docker", images=["debian", "bare", "user"])]

WEB = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello from the node")
http.server.HTTPServer(("", 80), Handler).serve_forever()
"""


@pytest.fixture
def api() -> Iterator[Any]:
    with daemon() as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def fetch(port: int) -> bytes:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


# --- what is created ---


async def test_everything_of_a_lab_carries_its_labels(api):
    async with opened("{network: {name: lan}, nodes: [{name: alpha}, {name: beta}]}") as lab:
        made = containers(api, lab)
        assert set(made) == {"alpha", "beta"}
        assert set(networks(api, lab)) == {"lan"}
        for thing in (*(one["Config"] for one in made.values()), *networks(api, lab).values()):
            assert thing["Labels"]["benchscale.pid"] == str(os.getpid())
            assert {"benchscale.run", "benchscale.boot"} <= set(thing["Labels"])


async def test_a_container_is_on_the_networks_of_its_node_and_no_other(api):
    async with opened("{network: {name: lan}, nodes: [{name: alpha}]}") as lab:
        attached = containers(api, lab)["alpha"]["NetworkSettings"]["Networks"]
        assert list(attached) == [networks(api, lab)["lan"]["Name"]]
        (endpoint,) = attached.values()
        assert endpoint["IPAddress"] == str(lab["alpha"].address)
        assert "alpha" in endpoint["Aliases"]


async def test_a_node_without_networks_has_none():
    async with opened("nodes: [{name: alone, networks: []}]") as lab:
        assert (await lab["alone"].exec("ls /sys/class/net")).stdout == "lo\n"


async def test_a_container_of_the_users_own_by_that_name_is_left_alone(api, monkeypatch):
    monkeypatch.setattr(planning, "new_lab_id", lambda: "collision")
    own = api.create_container(reference("debian"), name="benchscale-collision-alpha")["Id"]
    try:
        with pytest.raises(LabError, match="already in use") as caught:
            async with opened("nodes: [{name: alpha}, {name: beta}]"):
                pytest.fail("the lab came up")
        assert caught.value.node == "alpha"
        assert caught.value.resolution
        assert api.inspect_container(own)["State"]["Status"] == "created"
    finally:
        api.remove_container(own)


# --- images ---


async def test_an_image_without_sleep_and_shell_idles_with_its_own_command(api):
    async with opened("nodes: [{name: one}, {name: two}, {name: three}]", image="bare") as lab:
        for name, container in containers(api, lab).items():
            assert container["Config"]["Cmd"][0] == "/usr/bin/python3"
            result = await lab[name].exec(["python3", "-c", "print('here')"])
            assert result.stdout == "here\n", result.stderr


async def test_an_image_of_another_user_runs_as_that_user():
    async with opened("nodes: [{name: alpha}]", image="user") as lab:
        assert (await lab["alpha"].exec("id -un; pwd")).stdout == "app\n/home/app\n"


async def test_the_entry_point_of_an_image_stays_with_a_command(tmp_path):
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "Dockerfile").write_text(
        f'FROM {reference("debian")}\nENTRYPOINT ["/bin/sh", "-c", "echo entered; exec \\"$@\\"", "x"]\n'
    )
    text = """
        nodes:
          - {name: alpha, image: {docker: {build: ./image}}, command: [sleep, "1000"],
             wait_for: [{log: entered}]}
          - {name: idle, image: {docker: {build: ./image}}}
        """
    async with opened(text, tmp_path) as lab:
        assert "sleep 1000" in (await lab["alpha"].exec("ps ax")).stdout
        assert await lab["idle"].logs() == ""


# --- platforms ---


async def test_a_node_has_the_platform_that_it_wants(api):
    there = api.inspect_image(reference("debian"))["Architecture"]
    text = f"nodes: [{{name: alpha, platform: linux/{there}}}]"
    async with opened(text) as lab:
        image = containers(api, lab)["alpha"]["Image"]
        assert api.inspect_image(image)["Architecture"] == there


async def test_an_image_that_is_here_for_another_platform_only_is_not_taken(api):
    other = (
        "arm64" if api.inspect_image(reference("debian"))["Architecture"] != "arm64" else "amd64"
    )
    with pytest.raises(LabError, match=f"not on this machine for linux/{other}") as caught:
        async with opened(f"nodes: [{{name: alpha, platform: linux/{other}}}]"):
            pytest.fail("the lab came up")
    assert "alpha" in str(caught.value)


# --- ports, volumes, limits ---


@pytest.mark.parametrize("form", ["{port}:80", "127.0.0.1:{port}:80/tcp"])
async def test_a_published_port_answers_on_this_machine(form):
    port = free_port()
    text = f"""
        network: {{name: lan}}
        nodes:
          - name: web
            ports: ["{form.format(port=port)}"]
          - name: other
        """
    async with opened(text) as lab, lab["web"].process(["python3", "-c", WEB]):
        await lab["web"].wait_for_port(80, timeout=10)
        assert (await fetch(port)).endswith(b"hello from the node")
        await lab["web"].restart()
        async with lab["web"].process(["python3", "-c", WEB]):
            await lab["web"].wait_for_port(80, timeout=10)
            assert (await fetch(port)).endswith(b"hello from the node")


async def test_a_port_that_the_daemon_chose_is_told():
    text = "{network: {name: lan}, nodes: [{name: web, ports: ['80', '53/udp']}, {name: other}]}"
    async with opened(text) as lab:
        web, other = lab["web"], lab["other"]
        assert set(web.ports) == {"80/tcp", "53/udp"}
        assert other.ports == {}
        async with web.process(["python3", "-c", WEB]):
            await web.wait_for_port(80, timeout=10)
            assert (await fetch(web.ports["80/tcp"])).endswith(b"hello from the node")
        await web.restart()
        async with web.process(["python3", "-c", WEB]):
            await web.wait_for_port(80, timeout=10)
            assert (await fetch(web.sync.ports["80/tcp"])).endswith(b"hello from the node")
        await web.stop()
        assert web.ports == {}


async def test_a_port_that_another_program_has_is_named(api):
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabError, match=f"port {port} is taken.*another program") as caught:
            async with opened(
                f"{{network: {{name: lan}}, nodes: [{{name: a, ports: ['{port}:80']}}]}}"
            ):
                pytest.fail("the lab came up")
    assert caught.value.node == "a"


async def test_a_port_that_another_container_has_is_named_with_it(api):
    port = free_port()
    text = f"{{network: {{name: lan}}, nodes: [{{name: a, ports: ['{port}:80']}}]}}"
    async with opened(text) as lab:
        name = containers(api, lab)["a"]["Name"].lstrip("/")
        with pytest.raises(LabError, match=f"port {port} is taken, container '{name}'"):
            async with opened(text):
                pytest.fail("the lab came up")


async def test_volumes_are_mounted_and_read_only_when_said_so(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("of the host")
    text = "nodes: [{name: a, volumes: ['./data:/data', './data/file:/etc/fixed:ro']}]"
    async with opened(text, tmp_path) as lab:
        assert await lab["a"].read_text("/data/file") == "of the host"
        await lab["a"].write_text("/data/new", "of the node")
        assert not (await lab["a"].exec("echo changed > /etc/fixed")).ok
    assert (tmp_path / "data" / "new").read_text() == "of the node"
    assert (tmp_path / "data" / "file").read_text() == "of the host"


async def test_a_volume_without_a_source_is_an_error_and_no_new_directory(tmp_path):
    with pytest.raises(LabError, match="absent") as caught:
        async with opened("nodes: [{name: a, volumes: ['./absent:/data']}]", tmp_path):
            pytest.fail("the lab came up")
    assert caught.value.node == "a"
    assert not (tmp_path / "absent").exists()


async def test_limits_are_the_containers(api):
    text = "nodes: [{name: a, memory_mb: 64, vcpus: 0.5}, {name: b, vcpus: 1000}]"
    async with opened(text) as lab:
        limits = containers(api, lab)["a"]["HostConfig"]
        assert (limits["Memory"], limits["MemorySwap"]) == (64 << 20, 64 << 20)
        assert limits["NanoCpus"] == 500_000_000
        assert containers(api, lab)["b"]["HostConfig"]["NanoCpus"] == 0


async def test_a_limit_below_the_daemons_own_is_explained():
    with pytest.raises(LabError, match=r"[Mm]inimum memory limit") as caught:
        async with opened("nodes: [{name: a, memory_mb: 1}]"):
            pytest.fail("the lab came up")
    assert "memory_mb" in str(caught.value.resolution)


# --- life and death ---


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("[sh, -c, 'echo trouble 4242 >&2; exit 3']", "trouble 4242"),
        ("[no-such-program]", "no-such-program"),
        ("['true']", "nothing"),
    ],
)
async def test_a_node_that_ends_at_once_fails_with_its_output(command, said):
    # On a slow machine "at once" may be after the lab is up.
    with pytest.raises((LabError, NodeDied), match=said) as caught:
        async with opened(f"nodes: [{{name: good}}, {{name: bad, command: {command}}}]") as lab:
            await lab["bad"].wait_for_exec("false", timeout=20)
    assert "'bad'" in caught.value.brief


async def test_a_killed_container_is_dead_at_once_and_every_wait_fails(api):
    async with opened("nodes: [{name: a, command: 'echo last words; sleep 1000'}]") as lab:
        command = asyncio.create_task(lab["a"].exec("sleep 1000"))
        waits = [
            asyncio.create_task(lab["a"].wait_for_exec("false", timeout=60)),
            asyncio.create_task(lab["a"].wait_for_log("never", timeout=60)),
        ]
        await asyncio.sleep(0.5)
        api.kill(containers(api, lab)["a"]["Id"])
        begun = time.monotonic()
        for task in (command, *waits):
            with pytest.raises(NodeDied, match="last words") as caught:
                await task
            assert "exit code 137" in caught.value.reason
        assert time.monotonic() - begun < 5
        assert lab["a"].status is NodeStatus.DEAD


async def test_a_node_out_of_memory_says_so():
    eat = "sleep 0.5; tail /dev/zero"
    async with opened(f"nodes: [{{name: a, memory_mb: 32, command: '{eat}'}}]") as lab:
        with pytest.raises(NodeDied, match="want of memory"):
            await lab["a"].wait_for_exec("false", timeout=60)


async def test_a_container_that_somebody_removes_is_dead_and_no_trouble_later(api):
    async with opened("nodes: [{name: a}, {name: b}]") as lab:
        api.remove_container(containers(api, lab)["a"]["Id"], force=True)
        with pytest.raises(NodeDied):
            await lab["a"].wait_for_exec("false", timeout=20)
        assert (await lab["b"].exec("echo still here")).stdout == "still here\n"


async def test_a_paused_node_can_be_killed_and_removed():
    async with opened("nodes: [{name: a}, {name: b}]") as lab:
        await lab["a"].pause()
        await lab["b"].pause()
        await lab["a"].kill()
        assert lab["a"].status is NodeStatus.STOPPED
        await lab["a"].start()
        assert (await lab["a"].exec("echo again")).stdout == "again\n"


async def test_orphans_are_reaped():
    async with opened("nodes: [{name: a}]") as lab:
        await lab["a"].exec("for i in $(seq 50); do (sleep 0.01 &); done; sleep 0.3", check=True)
        assert (await lab["a"].exec("ps ax -o stat=")).stdout.count("Z") == 0


# --- logs ---

NOISE = r"""
import sys, time
print("ready", flush=True)
begun, count = time.monotonic(), 0
while True:
    due = int((time.monotonic() - begun) * 10000)
    while count < due:
        print("line", count)
        count += 1
    time.sleep(0.01)
"""


async def test_ten_thousand_lines_a_second_do_not_hold_anything_up(tmp_path):
    (tmp_path / "noise.py").write_text(NOISE)
    text = """
        nodes:
          - {name: a, command: [python3, /noise.py], volumes: ['./noise.py:/noise.py:ro'],
             wait_for: [{log: ^ready$}, {log: ^line 15000$}]}
        """
    async with opened(text, tmp_path) as lab:
        begun = time.monotonic()
        for _ in range(20):
            assert (await lab["a"].exec("echo hello")).stdout == "hello\n"
        assert time.monotonic() - begun < 5
        log = await lab["a"].logs()
        assert log.startswith("ready\nline 0\n")
        numbers = [int(line.split()[1]) for line in log.splitlines()[1:]]
        assert numbers == list(range(len(numbers)))


async def test_both_outputs_and_all_runs_are_in_the_log():
    command = "echo out; echo err >&2; sleep 1000"
    async with opened(
        f"nodes: [{{name: a, command: '{command}', wait_for: [{{log: err}}]}}]"
    ) as lab:
        await lab["a"].restart()
        await lab["a"].wait_for_log(r"(?s)err.*err", timeout=20)
        assert sorted((await lab["a"].logs()).split()) == ["err", "err", "out", "out"]


# --- cancelling ---


@pytest.mark.parametrize("milliseconds", [50, 150, 300, 600, 1000, 1500])
async def test_a_bring_up_cancelled_at_any_moment_leaves_nothing(api, milliseconds, monkeypatch):
    monkeypatch.setattr(planning, "new_lab_id", lambda: f"cancel{milliseconds}")
    text = "{networks: [{name: lan}, {name: wan}], nodes: [{name: a}, {name: b}, {name: c}]}"

    async def bring_up() -> None:
        async with opened(text):
            await asyncio.sleep(60)

    task = asyncio.create_task(bring_up())
    await asyncio.sleep(milliseconds / 1000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ours = {"label": f"benchscale.lab=cancel{milliseconds}"}
    await asyncio.sleep(0.5)  # for what might still appear
    assert api.containers(all=True, filters=ours) == []
    assert api.networks(filters=ours) == []


async def test_a_failed_bring_up_leaves_nothing(api, monkeypatch):
    monkeypatch.setattr(planning, "new_lab_id", lambda: "failed01")
    with pytest.raises(BenchscaleError):
        async with opened(
            "{network: {name: lan}, nodes: [{name: a}, {name: b, setup: ['false']}]}"
        ):
            pytest.fail("the lab came up")
    ours = {"label": "benchscale.lab=failed01"}
    assert api.containers(all=True, filters=ours) == []
    assert api.networks(filters=ours) == []
