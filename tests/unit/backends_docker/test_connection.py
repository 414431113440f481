"""Finding a daemon and connecting to it: every way in which that fails says what to do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale.backends.docker import connection, endpoints
from pytest_benchscale.backends.docker.connection import connect
from pytest_benchscale.backends.docker.diagnosis import DOCKER, PODMAN, Product, explain_ssh
from pytest_benchscale.backends.docker.endpoints import Endpoint, find_docker
from pytest_benchscale.errors import BackendUnavailable
from tests.unit.backends_docker import fake_daemon
from tests.unit.backends_docker.fake_daemon import on_port, on_socket, silent_socket

VARIABLES = ("HOST", "CONTEXT", "CONFIG", "TLS_VERIFY", "CERT_PATH")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"DOCKER_{name}", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A docker context named `elsewhere`; its meta.json."""
    digest = hashlib.sha256(b"elsewhere").hexdigest()
    meta = tmp_path / "home/.docker/contexts/meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": "ssh://me@host.example", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "elsewhere", "Endpoints": {"docker": endpoint}}))
    return meta


async def failure(url: str | None = None, product: Product = DOCKER) -> BackendUnavailable:
    """Connect in vain; return what the user is told."""
    endpoint = Endpoint(url, "DOCKER_HOST") if url else None
    with pytest.raises(BackendUnavailable) as caught:
        await connect("docker", endpoint, product)
    assert caught.value.resolution
    return caught.value


# --- where it is ---


def test_docker_host_counts_more_than_any_context(context, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:4444")
    assert find_docker().url == "tcp://127.0.0.1:4444"


def test_the_context_of_the_environment_counts_more_than_the_current_one(
    context, monkeypatch, tmp_path
):
    (tmp_path / "home/.docker/config.json").write_text('{"currentContext": "another"}')
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    assert find_docker().url == "ssh://me@host.example"


def test_the_current_context_counts_more_than_the_default_socket(context, tmp_path):
    (tmp_path / "home/.docker/config.json").write_text('{"currentContext": "elsewhere"}')
    found = find_docker()
    assert found.url == "ssh://me@host.example"
    assert found.place == "ssh://me@host.example (docker context 'elsewhere')"


def test_a_configuration_directory_elsewhere_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"currentContext": "nowhere"}')
    with pytest.raises(BackendUnavailable, match=r"'nowhere', which .*config\.json names"):
        find_docker()


@pytest.mark.parametrize("text", ["", "[]", "no json", '{"currentContext": "default"}'])
def test_without_a_context_it_is_the_default_socket(text, tmp_path):
    (tmp_path / "home/.docker").mkdir(parents=True)
    (tmp_path / "home/.docker/config.json").write_text(text)
    assert find_docker().source == "the default"


async def test_a_context_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    error = await failure()
    assert "no usable docker context 'gone', which DOCKER_CONTEXT names" in error.reason
    assert "docker context ls" in str(error.resolution)


def test_the_socket_of_docker_desktop_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(endpoints, "_USUAL", tmp_path / "none")
    path = tmp_path / "home/.docker/run/docker.sock"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_docker().url == f"unix://{path}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/it.sock", "unix:///run/it.sock"),
        ("unix://run/it.sock", "unix:///run/it.sock"),
        ("tcp://box", "tcp://box:2375"),
        ("box:77", "tcp://box:77"),
        ("https://box", "tcp://box:2376"),
        ("tcp://[::1]:5", "tcp://::1:5"),
        ("ssh://me@box:2222", "ssh://me@box:2222"),
        ("ssh://box/run/it.sock", "ssh://box"),
    ],
)
def test_an_address_is_read_as_docker_reads_it(url, expected):
    assert str(Endpoint(url, "DOCKER_HOST").address("docker")) == expected


@pytest.mark.parametrize(
    "url",
    [
        *(
            "unix://",
            "tcp://",
            "npipe:////./pipe/docker",
            "fd://",
            "nonsense://x",
            "tcp://box:port",
        ),
        *("tcp://box:99999", "tcp://box:1/path", "tcp://me:secret@box:1", "ssh://", "tcp://[::1"),
    ],
)
async def test_nonsense_is_told_together_with_what_is_understood(url):
    error = await failure(url)
    assert error.reason.startswith(f"DOCKER_HOST is no address of a daemon: {url!r}: ")
    assert "ssh://USER@HOST" in str(error.resolution)


# --- connecting ---


async def test_it_speaks_the_version_of_the_daemon(tmp_path):
    with on_socket(tmp_path / "s") as daemon:
        engine = await connect("docker", Endpoint(daemon.url, "DOCKER_HOST"))
        assert engine.client.api_version == "1.41"
        assert engine.address.is_local
        await engine.aclose()


async def test_no_socket_at_all_means_no_daemon(tmp_path):
    error = await failure(f"unix://{tmp_path}/none.sock")
    assert "no daemon is running: there is no socket" in error.reason
    assert "systemctl start docker" in str(error.resolution)


async def test_a_socket_that_nobody_serves_means_no_daemon(tmp_path):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "s"))
    error = await failure(f"unix://{tmp_path}/s")
    assert "connection refused" in error.reason
    assert "systemctl start docker" in str(error.resolution)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_socket_without_permission_leads_to_the_group(tmp_path):
    program = (
        "import asyncio, os, sys\n"
        "from pytest_benchscale.backends.docker.connection import connect\n"
        "from pytest_benchscale.backends.docker.endpoints import Endpoint\n"
        "from pytest_benchscale.errors import BackendUnavailable\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    asyncio.run(connect('docker', Endpoint(sys.argv[1], 'DOCKER_HOST')))\n"
        "except BackendUnavailable as error:\n"
        "    print(error)\n"
    )
    directory = Path("/tmp") / f"benchscale-{os.getpid()}"  # pytest's own is closed to others
    directory.mkdir()
    try:
        with on_socket(directory / "s") as daemon:
            (directory / "s").chmod(0)
            command = [sys.executable, "-c", program, daemon.url]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        (directory / "s").unlink()
        directory.rmdir()
    assert "you may not use the daemon's socket" in said
    assert "usermod -aG docker" in said


async def test_a_daemon_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "PROBE_SECONDS", 0.5)
    with silent_socket(tmp_path / "s"):
        began = time.monotonic()
        error = await failure(f"unix://{tmp_path}/s")
        assert 0.4 < time.monotonic() - began < 3
    assert "did not answer within 0.5 s" in error.reason
    assert "overloaded" in str(error.resolution)


async def test_a_daemon_whose_queue_is_full_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            error = await failure(f"unix://{tmp_path}/s")
    assert "takes no more connections" in error.reason


async def test_waiting_for_a_daemon_can_be_cancelled(tmp_path):
    with silent_socket(tmp_path / "s"), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await connect("docker", Endpoint(f"unix://{tmp_path}/s", "DOCKER_HOST"))


async def test_a_port_that_refuses_means_no_daemon():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        error = await failure(f"tcp://127.0.0.1:{closed.getsockname()[1]}")
    assert "no daemon listens at tcp://127.0.0.1:" in error.reason


async def test_a_host_that_is_not_known_is_named():
    error = await failure("tcp://no..such..host:1")
    assert "tcp://no..such..host:1 (DOCKER_HOST)" in error.reason
    assert "DOCKER_HOST" in str(error.resolution)


async def test_the_proxy_of_the_web_is_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with on_port() as daemon:
        engine = await connect("docker", Endpoint(daemon.url, "DOCKER_HOST"))
        assert not engine.address.is_local
        await engine.aclose()


@pytest.mark.parametrize("answer", [[], {"hello": "world"}, "text", {"ApiVersion": 1}])
async def test_what_answers_may_be_no_daemon(answer, tmp_path):
    with on_socket(tmp_path / "s", version=answer) as daemon:
        error = await failure(daemon.url)
    assert "is no container daemon" in error.reason
    assert error.resolution == "check DOCKER_HOST"


async def test_what_answers_may_be_a_web_server():
    with on_port() as daemon:
        daemon.routes.clear()
        error = await failure(daemon.url)
    assert "refused: no such thing: /version" in error.reason


async def test_what_answers_may_speak_no_http(tmp_path):
    with silent_socket(tmp_path / "s") as listener:

        def greet() -> None:
            client, _ = listener.accept()
            client.sendall(b"220 mail.example ESMTP\r\n")
            client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        error = await failure(f"unix://{tmp_path}/s")
        thread.join()
    assert "broke" in error.reason


async def test_an_old_daemon_is_told_to_be_updated(tmp_path):
    with on_socket(tmp_path / "s", version={"ApiVersion": "1.12"}) as daemon:
        error = await failure(daemon.url)
    assert "is too old: it speaks API 1.12" in error.reason
    assert error.resolution == "update Docker"


async def test_podman_is_not_taken_for_docker(tmp_path):
    version = {"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}
    with on_socket(tmp_path / "s", version=version) as daemon:
        error = await failure(daemon.url)
    assert "is Podman" in error.reason
    assert "use the backend 'podman'" in str(error.resolution)


async def test_docker_is_not_taken_for_podman(tmp_path):
    with on_socket(tmp_path / "s") as daemon:
        error = await failure(daemon.url, PODMAN)
    assert "is Docker" in error.reason
    assert "use the backend 'docker'" in str(error.resolution)


# --- TLS ---


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """A directory with an authority, and a certificate for localhost that serves both sides."""
    directory: Path = tmp_path_factory.mktemp("certificates")
    (directory / "names").write_text("subjectAltName=DNS:localhost\n")
    new = "-newkey rsa:2048 -nodes"
    signed = "-CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names"
    commands = [
        f"req -x509 {new} -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem",
        f"req {new} -subj /CN=localhost -keyout key.pem -out request.pem",
        f"x509 -req -in request.pem {signed} -out cert.pem",
    ]
    for command in commands:
        openssl = ["openssl", *command.split()]
        subprocess.run(openssl, cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture
def tls_daemon(certificates) -> Iterator[fake_daemon.FakeDaemon]:
    """A daemon that wants a certificate of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with on_port(context=context, host="localhost") as daemon:
        yield daemon


async def test_a_daemon_with_certificates_is_reached(tls_daemon, certificates, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", tls_daemon.url)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")  # is about the web
    engine = await connect()
    assert engine.client.api_version == "1.41"
    assert engine.address.tls is not None
    await engine.aclose()


async def test_certificates_of_a_context_are_used(tls_daemon, certificates, context, monkeypatch):
    meta = json.loads(context.read_text())
    meta["Endpoints"]["docker"]["Host"] = tls_daemon.url
    context.write_text(json.dumps(meta))
    tls = context.parents[2] / "tls" / context.parent.name / "docker"
    tls.mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tls / name).write_bytes((certificates / name).read_bytes())
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    engine = await connect()
    await engine.aclose()


async def test_a_daemon_of_another_authority_is_not_trusted(tls_daemon, monkeypatch, certificates):
    monkeypatch.setenv("DOCKER_HOST", tls_daemon.url.replace("localhost", "127.0.0.1"))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    error = await failure()
    assert "cannot be trusted" in error.reason
    assert "DOCKER_CERT_PATH" in str(error.resolution)


async def test_missing_certificates_are_named(tls_daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", tls_daemon.url)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    error = await failure()
    assert "certificates" in error.reason
    assert "DOCKER_CERT_PATH" in str(error.resolution)


async def test_plain_http_to_a_daemon_with_tls_is_explained(tls_daemon):
    error = await failure(tls_daemon.url)
    assert "DOCKER_HOST" in str(error)


async def test_gos_answer_to_plain_http_is_explained(tmp_path):
    with on_socket(tmp_path / "s") as daemon:
        daemon.routes["GET /version"] = lambda request: request.answer(
            {"message": "Client sent an HTTP request to an HTTPS server."}, 400
        )
        error = await failure(daemon.url)
    assert "wants TLS" in error.reason
    assert "DOCKER_TLS_VERIFY=1" in str(error.resolution)


# --- ssh ---


@pytest.mark.parametrize(
    ("complaint", "cure"),
    [
        (
            "Host key verification failed.",
            "accept the host's key by hand, once: `ssh ssh://me@box`",
        ),
        ("me@box: Permission denied (publickey).", "have a key for that host"),
        ("bash: line 1: docker: command not found", "install Docker there"),
        ("sh: 1: docker: not found", "install Docker there"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod"),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            "start Docker there",
        ),
        ("ssh: connect to host box port 22: No route to host", "check DOCKER_HOST"),
        ("", "try `ssh ssh://me@box` by hand"),
    ],
)
def test_what_ssh_says_becomes_advice(complaint, cure):
    reason, resolution = explain_ssh(complaint, "ssh://me@box/x (DOCKER_HOST)", DOCKER, 20)
    assert complaint in reason
    assert cure in resolution


async def test_a_missing_ssh_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = await failure("ssh://box")
    assert "ssh cannot be started" in error.reason
    assert "install ssh" in str(error.resolution)


async def test_what_ssh_complains_about_is_shown(monkeypatch, tmp_path):
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'Host key verification failed.' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    error = await failure("ssh://me@box")
    assert "Host key verification failed." in error.reason
    assert "by hand" in str(error.resolution)


async def test_behind_ssh_it_is_any_daemon_and_not_a_local_one(monkeypatch, tmp_path):
    with on_socket(tmp_path / "s") as daemon:
        program = tmp_path / "ssh"
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, socket, sys, threading\n"
            "open(sys.argv[0] + '.log', 'a').write(' '.join(sys.argv) + '\\n')\n"
            "if '-O' in sys.argv: sys.exit()\n"
            "there = socket.socket(socket.AF_UNIX)\n"
            f"there.connect({str(tmp_path / 's')!r})\n"
            "def copy():\n"
            "    while data := there.recv(65536): os.write(1, data)\n"
            "    os._exit(0)\n"
            "threading.Thread(target=copy).start()\n"
            "while data := os.read(0, 65536): there.sendall(data)\n"
            "there.shutdown(socket.SHUT_WR)\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        engine = await connect("docker", Endpoint("ssh://me@box:22/run/it.sock", "DOCKER_HOST"))
        assert not engine.address.is_local
        assert str(engine.address) == "ssh://me@box:22"
        assert (await engine.call(engine.client.version))["Version"] == "20.10"
        await engine.aclose()
        assert daemon.count("GET /version") == 2
        asked, *_, ended = (tmp_path / "ssh.log").read_text().splitlines()
    assert asked.endswith("-l me -p 22 -- box docker --host unix:///run/it.sock system dial-stdio")
    assert "BatchMode=yes" in asked
    assert ended.endswith("-O exit -- box")
    assert not list(tmp_path.parent.glob("benchscale-*"))
