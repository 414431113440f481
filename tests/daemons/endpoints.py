"""Where docker and podman answer on this machine, if they do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["DAEMONS", "VARIABLES", "Unreachable", "connection", "find"]

# What tells a client where the daemon is.
VARIABLES = {"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}
DAEMONS = tuple(VARIABLES)


class Unreachable(Exception):
    """A daemon does not answer; the text is one line that says why."""


def find(daemon: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the address at which a daemon answers.

    Raises:
        Unreachable: none does.
    """
    reasons = []
    for url in _addresses(daemon, environment):
        try:
            with connection(url, timeout=5):
                return url
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable("; ".join(reasons))


def _addresses(daemon: str, environment: Mapping[str, str]) -> list[str]:
    """Return where a daemon may be: where the environment says, or at the usual places."""
    named = environment.get(VARIABLES[daemon])
    if named:
        return [named]
    own = environment.get("XDG_RUNTIME_DIR")
    usual = {
        "docker": ["/var/run/docker.sock", *([f"{own}/docker.sock"] if own else [])],
        "podman": ["/run/podman/podman.sock", *([f"{own}/podman/podman.sock"] if own else [])],
    }
    return [f"unix://{path}" for path in usual[daemon]]


@contextmanager
def connection(url: str, timeout: float = 60) -> Iterator[Any]:
    """Connect to a daemon by the docker SDK; `timeout` (s) is for each request.

    Raises:
        Unreachable: it does not answer, or the SDK is not installed.
    """
    if url.startswith("unix://"):
        _ping(url.removeprefix("unix://"), timeout)
    try:
        import docker  # noqa: PLC0415  it takes a while, and is not always there
    except ImportError as error:
        raise Unreachable(f"{error.name} is not installed") from error
    try:
        # With the variables, since for TCP these say more than the address.
        settings = {**os.environ, "DOCKER_HOST": url}
        client = docker.DockerClient.from_env(timeout=timeout, environment=settings)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise Unreachable(f"{url} does not answer: {_first_line(error)}") from error
    try:
        yield client
    finally:
        client.close()


def _ping(path: str, timeout: float) -> None:
    """Ask a daemon for an answer, without the SDK: that leaves sockets open when there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            answer = client.recv(4096).partition(b"\r\n")[0].decode(errors="replace")
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror or error}") from error
    if " 200 " not in answer:
        raise Unreachable(f"{path}: answers {answer!r}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
