"""A connection to a container daemon, tried out before it is used.

How the daemon is reached, through a socket, TCP, TLS or ssh, matters nowhere above. Each way in which
that can fail becomes one sentence and what to do about it, within a bounded time.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import docker
import docker.constants
import docker.errors
import requests
import requests.adapters
from anyio import to_thread
from docker.tls import TLSConfig
from docker.utils import version_lt

from pytest_benchscale.backends.docker.diagnosis import (
    DOCKER,
    PODMAN,
    Diagnosis,
    Product,
    explain,
    explain_ssh,
)
from pytest_benchscale.backends.docker.endpoints import Certificates, Endpoint, find_docker
from pytest_benchscale.backends.docker.engine import AT_ONCE, READ_SECONDS, Engine
from pytest_benchscale.backends.docker.tunnel import CONNECT_SECONDS, SSHTunnel
from pytest_benchscale.backends.docker.unix_socket import UnixAdapter
from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["PROBE_SECONDS", "connect"]

PROBE_SECONDS = 10.0
"""How long a daemon has for its first answer; ssh has its own time for the login before."""

_POOL = AT_ONCE + 8  # connections that are kept: calls, and what follows something for long
_FAILURES = (
    requests.RequestException,
    docker.errors.DockerException,
    OSError,
    ValueError,  # no JSON, or none of a daemon
)
_LOWEST: str = docker.constants.MINIMUM_DOCKER_API_VERSION


async def connect(
    name: str = "docker", endpoint: Endpoint | None = None, product: Product = DOCKER
) -> Engine:
    """Connect the backend `name` to its daemon; without an endpoint, to the one `docker` would use.

    Raises:
        BackendUnavailable: there is none, or it cannot be used; says why and what to do.
    """
    attempt = _Attempt(name, endpoint or find_docker(), product)
    try:
        client = await to_thread.run_sync(attempt.run, abandon_on_cancel=True)
    except BaseException:
        attempt.give_up()
        raise
    address = attempt.address
    if client.tunnel is not None:
        address = dataclasses.replace(address, path=str(client.tunnel.path))
    return Engine(name, client, address)


_known: dict[str, dict[str, Any]] = {}
"""What daemons have told of their versions, by where they are."""


class _Client(docker.APIClient):  # type: ignore[misc]  # the SDK has no types
    """The SDK's client, made without a request, and closed together with what carries it."""

    def __init__(
        self, address: DaemonAddress, certificates: Certificates | None, tunnel: SSHTunnel | None
    ) -> None:
        self.tunnel = tunnel
        self.about: dict[str, Any] = {}
        self._place = f"{address} {address.path}"
        super().__init__(
            base_url=_base_url(address, tunnel),
            version=_LOWEST,
            timeout=_probe_seconds(tunnel),
            tls=_tls(certificates) if address.tls else False,
            max_pool_size=_POOL,
        )
        # A daemon is not behind the proxy of the web, and REQUESTS_CA_BUNDLE is not about it.
        self.trust_env = False
        if address.kind == "tcp":
            for prefix in ("http://", "https://"):
                self.mount(prefix, requests.adapters.HTTPAdapter(pool_maxsize=_POOL))
        else:
            path = str(tunnel.path) if tunnel else address.path
            self.mount("http+docker://", UnixAdapter(path, self.timeout, max_pool_size=_POOL))

    def negotiate(self) -> dict[str, Any]:
        """Ask the daemon for its version, and speak that from now on; return its answer.

        Raises:
            ValueError: the answer is no daemon's.
        """
        ping = self.get(f"{self.base_url}/_ping", timeout=_probe_seconds(self.tunnel))
        known = _known.get(self._place, {})
        answer: Any = known
        # A version costs Podman most of a second: it asks the package manager about each of its helpers.
        if not known or ping.headers.get("Api-Version") != known["ApiVersion"]:
            answer = self.version(api_version=False)
        version = answer.get("ApiVersion") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not version:
            raise ValueError("it names no version of its API")
        self.about = _known[self._place] = dict(answer)
        self._version = version
        self.timeout = READ_SECONDS
        return self.about

    def close(self) -> None:
        """Close the connections, and the way to the daemon."""
        super().close()
        if self.tunnel is not None:
            self.tunnel.close()


class _Attempt:
    """One attempt to connect, in a worker thread that its caller may have to leave alone."""

    def __init__(self, name: str, endpoint: Endpoint, product: Product) -> None:
        self.address = endpoint.address(name)
        self._name = name
        self._endpoint = endpoint
        self._product = product
        self._lock = threading.Lock()
        self._given_up = False
        self._client: _Client | None = None

    def give_up(self) -> None:
        """Have the connection closed that the attempt has brought, or will bring."""
        with self._lock:
            self._given_up = True
            client, self._client = self._client, None
        if client is not None:
            threading.Thread(target=client.close, daemon=True).start()

    def run(self) -> _Client:
        """Connect, and find out what answers.

        Raises:
            BackendUnavailable: that failed.
        """
        client = self._made()
        try:
            self._check(client.negotiate())
        except BaseException as error:
            diagnosis = self._diagnosis(error, client.tunnel)
            client.close()
            if diagnosis is None:
                raise
            raise self._unusable(*diagnosis) from error
        with self._lock:
            if self._given_up:
                client.close()
            else:
                self._client = client
        return client

    def _made(self) -> _Client:
        tunnel = self._tunnel() if self.address.kind == "ssh" else None
        try:
            return _Client(self.address, self._endpoint.certificates, tunnel)
        except BaseException as error:
            if tunnel is not None:
                tunnel.close()
            if isinstance(error, docker.errors.DockerException):
                raise self._unusable(str(error), f"check {self._endpoint.source}") from error
            raise

    def _tunnel(self) -> SSHTunnel:
        address, product = self.address, self._product
        path = self._endpoint.remote_path
        where = (product.url_option, f"unix://{path}") if path else ()
        dial = (product.client, *where, "system", "dial-stdio")
        try:
            return SSHTunnel(address.host, address.user, address.port, dial)
        except OSError as error:
            raise self._unusable(f"ssh gets no socket on this machine: {error}") from error

    def _diagnosis(self, error: BaseException, tunnel: SSHTunnel | None) -> Diagnosis | None:
        """Return what an error of the SDK means; None: it is none."""
        place, seconds = self._endpoint.place, _probe_seconds(tunnel)
        if not isinstance(error, _FAILURES):
            return None
        if tunnel is not None and not isinstance(error, docker.errors.APIError):
            return explain_ssh(tunnel.complaint(), place, self._product, seconds)
        return explain(error, place, self._product, seconds)

    def _check(self, answer: dict[str, Any]) -> None:
        """Check that what answers can be used."""
        place, product = self._endpoint.place, self._product
        if version_lt(answer["ApiVersion"], _LOWEST):
            raise self._unusable(
                f"the daemon at {place} is too old: it speaks API {answer['ApiVersion']}, "
                f"{_LOWEST} is needed",
                f"update {product.title}",
            )
        components = answer.get("Components") or ()
        is_podman = any(part.get("Name") == PODMAN.component for part in components)
        if is_podman != (product is PODMAN):
            other = PODMAN if is_podman else DOCKER
            raise self._unusable(
                f"what answers at {place} is {other.title}",
                f"use the backend {other.client!r}, or name a daemon of {product.title} "
                f"in {product.variable}",
            )

    def _unusable(self, reason: str, resolution: str | None = None) -> BackendUnavailable:
        return BackendUnavailable(self._name, reason, resolution=resolution)


def _probe_seconds(tunnel: SSHTunnel | None) -> float:
    return PROBE_SECONDS + (CONNECT_SECONDS if tunnel else 0)


def _base_url(address: DaemonAddress, tunnel: SSHTunnel | None) -> str:
    if tunnel is not None:
        return f"unix://{tunnel.path}"
    if address.kind == "unix":
        return f"unix://{address.path}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"tcp://{host}:{address.port}"


def _tls(certificates: Certificates | None) -> TLSConfig | bool:
    if certificates is None:
        return True
    pair = (certificates.cert, certificates.key)
    return TLSConfig(
        client_cert=tuple(map(str, pair)) if all(pair) else None,
        ca_cert=str(certificates.ca) if certificates.ca else None,
        verify=certificates.verify,
    )
