"""The test images hold what other tests count on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemons.endpoints import DAEMONS, connection, find
from tests.daemons.images import IMAGES, reference

EACH = [
    pytest.param(daemon, marks=pytest.mark.daemon(daemon, images=list(IMAGES)))
    for daemon in DAEMONS
]


@pytest.fixture(scope="module", params=EACH)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with connection(find(request.param)) as client:
        yield client


def run(client: Any, image: str, *command: str) -> str:
    """Run a command in a new container; return its exit code and its output."""
    container = client.containers.create(reference(image), list(command))
    try:
        container.start()
        code = container.wait(timeout=60)["StatusCode"]
        return f"{code} {container.logs(stderr=False).decode()}".strip()
    finally:
        container.remove(force=True, v=True)


def test_debian_has_the_tools_of_a_small_system(client: Any) -> None:
    tools = "sh ip ping python3 ps curl tar getent setsid stat timeout"
    assert run(client, "debian", "sh", "-c", f"command -v {tools} >/dev/null") == "0"
    assert run(client, "debian", "sh", "-c", "[ /bin/sh -ef /usr/bin/dash ]") == "0"
    modules = "import asyncio, http.server, json, socket, sqlite3, ssl, subprocess"
    assert run(client, "debian", "python3", "-c", modules) == "0"


def test_bare_has_an_interpreter_and_no_other_program(client: Any) -> None:
    program = """
import asyncio, json, os, socket, ssl, struct, subprocess, threading
print(*sorted(os.listdir("/usr/bin")), os.path.exists("/usr/sbin"), socket.gethostbyname("localhost"))
"""
    assert run(client, "bare", "python3", "-c", program) == "0 python3 python3.11 False 127.0.0.1"


def test_plain_has_a_shell_with_little_in_it(client: Any) -> None:
    assert run(client, "plain", "sh", "-c", "command -v printf") == "0 /usr/bin/printf"
    for lacking in ("[ / -ef / ]", "set -m", "ulimit", "type test"):
        assert not run(client, "plain", "sh", "-c", lacking).startswith("0"), lacking


def test_user_is_not_root(client: Any) -> None:
    assert run(client, "user", "sh", "-c", "id -u; pwd") == "0 1234\n/home/app"


def test_postgres_has_the_programs_and_no_cluster(client: Any) -> None:
    script = """
set -e
test ! -e /etc/postgresql/15
install -d -o postgres /db
su postgres -c "PATH=$PATH; initdb -D /db >/dev/null && pg_ctl -D /db -w -l /db/log start >/dev/null"
su postgres -c "PATH=$PATH; psql -Atc 'select 6 * 7' && pg_basebackup -D /db/copy && ls /db/copy/PG_VERSION"
"""
    assert run(client, "postgres", "sh", "-c", script) == "0 42\n/db/copy/PG_VERSION"


def test_etcd_has_the_server_and_its_client(client: Any) -> None:
    script = "etcd --version && ETCDCTL_API=3 etcdctl version && hostname"
    answer = run(client, "etcd", "sh", "-c", script)
    assert answer.startswith("0 etcd Version: 3.4.")
    assert "etcdctl version: 3.4." in answer
