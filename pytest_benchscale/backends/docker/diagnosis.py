"""Why a container daemon cannot be reached, and what to do about it."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import docker.errors
import requests

__all__ = ["DOCKER", "PODMAN", "Diagnosis", "Product", "explain", "explain_ssh"]

_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT)

Diagnosis = tuple[str, str]
"""The reason and the cure."""


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of daemon: how it calls itself, and what its users do about it."""

    title: str
    component: str  # in the daemon's answer about its version
    start: str
    access: str
    variable: str  # of the environment
    client: str  # the program that ssh runs to reach it, and that one's option for a URL
    url_option: str


DOCKER = Product(
    title="Docker",
    component="Engine",
    start="start it (`sudo systemctl start docker`) or install it (on Debian and Ubuntu: "
    "`sudo apt-get install docker.io`); DOCKER_HOST names one that is elsewhere",
    access="`sudo usermod -aG docker $USER`, then log in again (or, in this shell, `newgrp docker`)",
    variable="DOCKER_HOST",
    client="docker",
    url_option="--host",
)

PODMAN = Product(
    title="Podman",
    component="Podman Engine",
    start="start its service (`systemctl --user start podman.socket`) or install it (on Debian and "
    "Ubuntu: `sudo apt-get install podman`); CONTAINER_HOST names one that is elsewhere",
    access="use a service of your own: unset CONTAINER_HOST, or name a socket that you may open",
    variable="CONTAINER_HOST",
    client="podman",
    url_option="--url",
)


def explain(error: BaseException, place: str, product: Product, seconds: float) -> Diagnosis:
    """Return why the daemon at `place` could not be asked, from what the SDK raised."""
    if isinstance(error, docker.errors.APIError):
        return _refused(error, place, product)
    causes = list(_causes(error))
    for cause in causes:
        if diagnosis := _of_network(cause, place, product) or _of_socket(cause, place, product):
            return diagnosis
    if any(isinstance(cause, TimeoutError | requests.Timeout) for cause in causes):
        return (
            f"the daemon at {place} did not answer within {seconds:g} s",
            f"it may be stopped or overloaded: look at its log, or restart it; or check {product.variable}",
        )
    if any(isinstance(cause, ValueError) for cause in causes[:1]):
        return f"what answers at {place} is no container daemon", f"check {product.variable}"
    return f"the connection to {place} broke: {causes[-1]}", product.start


def explain_ssh(complaint: str, place: str, product: Product, seconds: float) -> Diagnosis:
    """Return why the daemon behind ssh could not be asked, from what ssh printed."""
    login = f"`ssh ssh://{place.split(maxsplit=1)[0].removeprefix('ssh://').split('/')[0]}`"
    if not complaint:
        return (
            f"nothing answered through {place} within {seconds:g} s",
            f"try {login} by hand, and `{product.client} version` there",
        )
    cures = {
        "ssh cannot be started": "install ssh (on Debian and Ubuntu: openssh-client)",
        "host key verification failed": f"accept the host's key by hand, once: {login}",
        "permission denied (": "have a key for that host in ssh's own files or its agent that needs "
        "no password",
        "command not found": f"install {product.title} there, with its client {product.client!r}",
        f"{product.client}: not found": f"install {product.title} there, with its client "
        f"{product.client!r}",
        "permission denied": f"let the user there use the daemon: {product.access}",
        "dial unix": f"start {product.title} there, or name its socket: ssh://HOST/PATH",
        "connect to the docker daemon": f"start {product.title} there",
        "unable to connect to podman": f"start {product.title} there",
    }
    otherwise = f"check {product.variable}, and that {login} works"
    words = complaint.lower()
    cure = next((cure for sign, cure in cures.items() if sign in words), otherwise)
    return f"{place} does not lead to a daemon; ssh says:\n{complaint}", cure


def _refused(error: docker.errors.APIError, place: str, product: Product) -> Diagnosis:
    words = str(error.explanation or error)
    if "HTTPS server" in words:  # Go's answer to plain HTTP
        return (
            f"the daemon at {place} wants TLS",
            "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory of the certificates",
        )
    return f"what answers at {place} refused: {words}", f"check {product.variable}"


def _of_network(cause: BaseException, place: str, product: Product) -> Diagnosis | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {place} cannot be trusted: {cause.verify_message}",
            "have the ca.pem in DOCKER_CERT_PATH that signed it, and name the host as it does",
        )
    if isinstance(cause, ssl.SSLError):
        return (
            f"there is no agreement about TLS with {place}: {cause.reason or cause}",
            "check that the daemon was started with TLS, and DOCKER_TLS_VERIFY and DOCKER_CERT_PATH",
        )
    if isinstance(cause, socket.gaierror):
        return (
            f"the host of {place} is not known: {cause.strerror}",
            f"check the name in {product.variable}",
        )
    if isinstance(cause, OSError) and cause.errno in _UNREACHABLE:
        return f"{place} cannot be reached: {cause.strerror}", f"check {product.variable}"
    return None


def _of_socket(cause: BaseException, place: str, product: Product) -> Diagnosis | None:
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return f"no daemon is running: there is no socket {place}", product.start
    if isinstance(cause, PermissionError):
        return f"you may not use the daemon's socket {place}", product.access
    if isinstance(cause, ConnectionRefusedError):
        return f"no daemon listens at {place}: connection refused", product.start
    if isinstance(cause, BlockingIOError):  # the queue of a Unix socket is full
        return (
            f"the daemon at {place} takes no more connections",
            "it may be stopped or overloaded: look at its log, or restart it",
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and what it came from, however the libraries between hand that on."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting += [each for each in inner if isinstance(each, BaseException)]
