"""A Docker daemon that is reached over TCP or ssh: everything works that needs no shared file system."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio import to_thread
from pytest_benchscale.network.kernel import has_netem

from pytest_benchscale.backends.docker.backend import DockerBackend
from pytest_benchscale.backends.kernel import has_netem
from pytest_benchscale.errors import BackendUnavailable, LabError, NodeDied
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.network.link import NOTHING, LinkState, Senders
from pytest_benchscale.network.render import steps
from pytest_benchscale.network.steps import DeleteClassifier
from pytest_benchscale.topology.conditions import Figures
from pytest_benchscale.topology.loader import load_text
from tests.daemons.endpoints import find
from tests.daemons.images import reference
from tests.daemons.needs import skip_or_fail
from tests.machine import processes_that

pytestmark = pytest.mark.daemon("docker")

PAIR = f"""
metadata: {{name: remote-pair}}
network: {{name: lan}}
nodes:
  - {{name: one, image: "{reference("debian")}"}}
  - {{name: two, image: "{reference("debian")}"}}
"""


@contextmanager
def forwarded(path: str) -> Iterator[int]:
    """Have a TCP port of the loopback interface lead to a Unix socket."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one of them has closed
            pass

    def connect(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(path)
            back = threading.Thread(target=copy, args=(daemon, client))
            back.start()
            copy(client, daemon)
            back.join()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # it was shut down
                return
            threading.Thread(target=connect, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class SSHServer:
    """An sshd of the test's own on a loopback port, with keys that live as long as it."""

    def __init__(self, directory: Path, program: str, docker_host: str) -> None:
        self.directory = directory
        self._key("host")
        self._key("user")
        (directory / "authorized").write_text((directory / "user.pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        host_key = (directory / "host.pub").read_text()
        (directory / "known").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        path = os.environ["PATH"]
        self._write(
            "sshd_config",
            *("ListenAddress 127.0.0.1", f"Port {self.port}", f"HostKey {directory}/host"),
            *("PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no"),
            *(f"AuthorizedKeysFile {directory}/authorized", "PermitRootLogin yes"),
            f"SetEnv PATH={path} DOCKER_HOST={docker_host}",
        )
        self._write(
            "ssh_config", f"IdentityFile {directory}/user", f"UserKnownHostsFile {directory}/known"
        )
        # What runs `ssh` finds this first: the keys must not be the user's own.
        wrapper = self._write(
            "ssh", "#!/bin/sh", f'exec {shutil.which("ssh")} -F {directory}/ssh_config "$@"'
        )
        wrapper.chmod(0o755)
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [program, "-D", "-e", "-f", f"{directory}/sshd_config"], stderr=self._log
        )
        self._wait()

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    def freeze(self) -> None:
        """Stop every process of the server."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        return [self._process.pid]

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except ConnectionRefusedError:
                log = (self.directory / "log").read_text()
                assert self._process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.02)
            else:
                return

    def _key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
        subprocess.run(command, check=True)

    def _write(self, name: str, *lines: str) -> Path:
        path = self.directory / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path


@pytest.fixture(scope="module")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHServer]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    missing = [name for name in ("ssh", "ssh-keygen", "docker") if not shutil.which(name)]
    if program is None or missing:
        skip_or_fail(f"not installed: {', '.join(missing or ['sshd'])} (openssh-server, docker.io)")
    assert program
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(
            exist_ok=True
        )  # Debian's sshd wants it, and its own scripts make it
    server = SSHServer(tmp_path_factory.mktemp("sshd"), program, find("docker"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def over_tcp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with forwarded(find("docker").removeprefix("unix://")) as port:
        url = f"tcp://127.0.0.1:{port}"
        monkeypatch.setenv("DOCKER_HOST", url)
        yield url


@pytest.fixture
def over_ssh(monkeypatch: pytest.MonkeyPatch, ssh_server: SSHServer) -> str:
    monkeypatch.setenv("DOCKER_HOST", ssh_server.url)
    monkeypatch.setenv("PATH", f"{ssh_server.directory}:{os.environ['PATH']}")
    return ssh_server.url


@pytest.fixture(params=["tcp", "ssh"])
def remote(request: pytest.FixtureRequest) -> str:
    """The URL of the daemon, which DOCKER_HOST names."""
    url: str = request.getfixturevalue(f"over_{request.param}")
    return url


async def test_nodes_of_a_remote_daemon_are_measured_by_what_they_have(remote):
    both = {"one": ["two"], "two": ["one"]}
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        for _ in range(2):
            matrix = await lab.probe(count=2)
            assert matrix.reachability() == both
            assert [(path.answered, path.delivered) for path in matrix] == [(2, 2)] * 2, str(matrix)
        await lab["two"].stop()
        assert await lab.reachability() == {"one": [], "two": []}
        await lab["two"].start()
        assert (await lab.probe(patience=10)).reachability() == both


async def test_a_container_without_python_is_measured_by_its_ping(over_tcp):
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        await lab["one"].exec("rm -f /usr/bin/python3*", check=True)
        matrix = await lab.probe(count=2)
        assert matrix.reachability() == {"one": ["two"], "two": ["one"]}
        assert [(path.answered, path.delivered) for path in matrix] == [(2, None)] * 2, str(matrix)
        await lab["one"].exec("rm -f $(command -v ping)", check=True)
        with pytest.raises(LabError, match="'one' cannot be measured from: it has no python3, and"):
            await lab.probe()


async def test_a_lab_lives_on_a_remote_daemon(remote, tmp_path):
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/file").write_text("content")
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        one, two = lab["one"], lab["two"]
        assert (await one.exec("hostname; cat", input="in\n", check=True)).stdout == "one\nin\n"
        assert (await one.exec(["ping", "-c1", "two"])).ok
        assert (await one.exec("exit 7")).returncode == 7
        results = await lab.exec("echo it")
        assert {result.stdout for result in results.values()} == {"it\n"}
        large = await one.exec("head -c 5000000 /dev/zero", check=True)
        assert len(large.stdout_bytes) == 5_000_000
        await one.put(tmp_path / "tree", "/tree")
        assert await one.read_text("/tree/deep/file") == "content"
        await one.get("/tree", tmp_path / "back")
        assert (tmp_path / "back/deep/file").read_text() == "content"
        async with two.process("echo ready; cat") as process:
            await process.wait_for_line("ready", timeout=20)
        await two.stop()
        await two.start()
        assert (await one.exec(["ping", "-c1", "two"])).ok


async def test_volumes_need_a_shared_file_system_and_are_refused(remote, tmp_path):
    text = PAIR + "    volumes: ['./data:/data']\n"
    text = text.replace('two, image: "', 'two, volumes: ["./data:/data"], image: "').replace(
        "    volumes: ['./data:/data']\n", ""
    )
    (tmp_path / "data").mkdir()
    lab = Lab.open(load_text(text, path=tmp_path / "topology.yaml"), backend="docker")
    with pytest.raises(LabError, match="volumes") as caught:
        async with lab:
            pass
    assert remote in str(caught.value)
    assert "another machine" in str(caught.value)


def deaf(lab: Lab, senders: str) -> LinkState:
    """Return what acts on a link whose node does not hear others."""
    addresses = frozenset(lab[name].address for name in senders.split())
    return LinkState(deaf_to=Senders(addresses=addresses))


async def change(lab: Lab, node: str, before: LinkState, after: LinkState) -> None:
    links = await lab._context.backend.links(node)
    for link in links.values():
        await link.conduit.change(steps(link, before, after))


async def helpers(lab: Lab) -> list[str]:
    """Return the lab's containers that are no nodes."""
    backend = lab._context.backend
    assert isinstance(backend, DockerBackend)
    engine = await backend.connect()
    try:
        filters = {"label": f"benchscale.lab={lab.lab_id}"}
        found = await engine.call(engine.client.containers, all=True, filters=filters)
    finally:
        await engine.aclose()
    return [one["Names"][0] for one in found if "benchscale.node" not in one["Labels"]]


async def test_a_node_is_cut_off_by_a_container_beside_it(remote):
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        one, cut = lab["one"], deaf(lab, "two")
        assert await lab._context.backend.has_netem()  # as far as can be known without a container
        await change(lab, "one", NOTHING, cut)
        assert not (await one.exec(["ping", "-c1", "-W1", "two"])).ok
        await change(lab, "one", cut, NOTHING)
        assert (await one.exec(["ping", "-c1", "-W1", "two"])).ok
        assert await helpers(lab) == []


async def test_a_rate_is_set_by_a_container_beside_the_node(over_tcp):
    slow = LinkState(figures=Figures(bandwidth_kbps=1000))
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        await change(lab, "one", NOTHING, slow)
        shown = await lab["one"].exec("tc qdisc show", check=True)
        assert "tbf 1: dev eth0-q0 root refcnt 2 rate 1Mbit" in shown.stdout
        await change(lab, "one", slow, NOTHING)
        shown = await lab["one"].exec("tc qdisc show; ip -br link", check=True)
        assert "tbf" not in shown.stdout
        assert "eth0-q0" not in shown.stdout


async def test_a_paused_node_is_cut_off_too_and_a_dead_one_says_so(over_tcp):
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        one, cut = lab["one"], deaf(lab, "two")
        await one.pause()
        await change(lab, "one", NOTHING, cut)
        await one.resume()
        assert not (await one.exec(["ping", "-c1", "-W1", "two"])).ok
        (link,) = (await lab._context.backend.links("one")).values()
        await one.kill()
        with pytest.raises(NodeDied, match="one"):
            await link.conduit.change(steps(link, cut, NOTHING))
        await one.start()
        assert (await one.exec(["ping", "-c1", "-W1", "two"])).ok
        assert await helpers(lab) == []


async def test_what_the_kernel_there_refuses_is_told(over_tcp):
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        (link,) = (await lab._context.backend.links("one")).values()
        with pytest.raises(OSError, match='Cannot find device "eth7"') as caught:
            await link.conduit.change([DeleteClassifier("eth7")])
        assert caught.value.errno == errno.ENODEV
        assert await helpers(lab) == []


async def test_without_tools_in_the_image_it_is_told_how_to_name_one_that_has_them(over_tcp):
    bare = PAIR.replace(reference("debian"), reference("bare"))
    async with Lab.open(load_text(bare), backend="docker") as lab:
        with pytest.raises(LabError, match="no `tc` and `ip`") as caught:
            await change(lab, "one", NOTHING, deaf(lab, "two"))
        assert "--benchscale-image tc=REFERENCE" in str(caught.value.resolution)


async def test_an_image_that_the_user_names_is_run_beside_one_without_tools(over_tcp):
    bare = PAIR.replace(reference("debian"), reference("bare"))
    options = LabOptions(images={"tc": reference("debian")})
    async with Lab.open(load_text(bare), backend="docker", options=options) as lab:
        assert await lab._context.backend.has_netem() == await to_thread.run_sync(has_netem)
        cut = deaf(lab, "two")
        connect = [
            "python3",
            "-c",
            f"import socket; socket.create_connection(('{lab['two'].address}', 1), 1)",
        ]
        refused = await lab["one"].exec(connect)
        assert "ConnectionRefusedError" in refused.stderr
        await change(lab, "one", NOTHING, cut)
        silent = await lab["one"].exec(connect)
        assert "TimeoutError" in silent.stderr
        await change(lab, "one", cut, NOTHING)
        assert "ConnectionRefusedError" in (await lab["one"].exec(connect)).stderr
        assert await helpers(lab) == []


async def test_an_image_of_the_users_without_tools_is_named(over_tcp):
    options = LabOptions(images={"tc": reference("bare")})
    async with Lab.open(load_text(PAIR), backend="docker", options=options) as lab:
        with pytest.raises(LabError, match="benchscale-test/bare") as caught:
            await lab._context.backend.has_netem()
        assert "iproute2" in str(caught.value.resolution)
        assert await helpers(lab) == []


async def test_an_image_is_built_there_from_a_directory_here(remote, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {reference('debian')}\nCOPY here /here\n")
    (tmp_path / "here").write_text("from this machine")
    text = """
    metadata: {name: built}
    nodes: [{name: it, image: {docker: {build: .}}}]
    """
    topology = load_text(text, path=tmp_path / "topology.yaml")
    async with Lab.open(topology, backend="docker") as lab:
        assert await lab["it"].read_text("/here") == "from this machine"


async def test_nothing_of_ssh_is_left_after_a_lab(over_ssh, tmp_path):
    before = _ssh_processes()
    async with Lab.open(load_text(PAIR), backend="docker") as lab:
        await lab["one"].exec("true")
        assert _ssh_processes() > before
    assert _ssh_processes() == before


def _ssh_processes() -> set[str]:
    def is_one(words: list[bytes]) -> bool:
        is_dial = words[0].endswith(b"ssh") and b"dial-stdio" in words[-2]
        return is_dial or b"[mux]" in words[0]

    return processes_that(is_one)


@contextmanager
def _emptied(file: Path) -> Iterator[None]:
    kept = file.read_text()
    file.write_text("")
    try:
        yield
    finally:
        file.write_text(kept)


async def test_a_key_that_the_host_does_not_take_is_explained(over_ssh, ssh_server, monkeypatch):
    with (
        _emptied(ssh_server.directory / "authorized"),
        pytest.raises(BackendUnavailable, match="Permission denied") as caught,
    ):
        async with Lab.open(load_text(PAIR), backend="docker"):
            pass
    assert "have a key for that host" in str(caught.value.resolution)


async def test_a_host_whose_key_is_not_known_is_explained(over_ssh, ssh_server):
    with (
        _emptied(ssh_server.directory / "known"),
        pytest.raises(BackendUnavailable, match="Host key verification failed") as caught,
    ):
        async with Lab.open(load_text(PAIR), backend="docker"):
            pass
    assert f"`ssh {ssh_server.url}`" in str(caught.value.resolution)


async def test_a_socket_that_is_not_there_is_told_by_the_other_machine(over_ssh, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"{over_ssh}/nowhere/docker.sock")
    with pytest.raises(BackendUnavailable, match=r"/nowhere/docker\.sock") as caught:
        async with Lab.open(load_text(PAIR), backend="docker"):
            pass
    assert "start Docker there" in str(caught.value.resolution)
