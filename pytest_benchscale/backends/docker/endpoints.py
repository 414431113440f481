"""Where a container daemon is: what the user's environment says about it, read as the docker CLI reads it."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["Certificates", "Endpoint", "find_docker"]

_PORTS = {False: 2375, True: 2376}  # without and with TLS
_FORMS = "unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"
_USUAL = Path("/var/run/docker.sock")
_NO_CONTEXT = ("", "default")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files for TLS; `verify`: whether the daemon must prove who it is."""

    ca: Path | None
    cert: Path | None
    key: Path | None
    verify: bool

    @property
    def directory(self) -> Path | None:
        """Where they are; None: no file is named."""
        named = (path for path in (self.ca, self.cert, self.key) if path)
        return next((path.parent.absolute() for path in named), None)

    def context(self) -> ssl.SSLContext:
        """Return what asyncio wants.

        Raises:
            OSError: a file is missing, or is no certificate or key (`ssl.SSLError`).
        """
        context = ssl.create_default_context(
            cafile=str(self.ca) if self.verify and self.ca else None
        )
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert and self.key:
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A daemon's URL, and who says so: a variable, a context."""

    url: str
    source: str
    certificates: Certificates | None = None

    @property
    def place(self) -> str:
        """The URL and where it comes from, for messages."""
        return f"{self.url} ({self.source})"

    @property
    def remote_path(self) -> str:
        """The daemon's socket on the machine that ssh leads to; empty: that machine's default."""
        parts = urlsplit(self.url)
        return parts.path.rstrip("/") if parts.scheme == "ssh" else ""

    def environment(self) -> dict[str, str]:
        """Return the variables by which `find_docker` finds the same daemon in another process."""
        certificates = self.certificates
        directory = certificates.directory if certificates else None
        return {
            "DOCKER_HOST": self.url,
            "DOCKER_TLS_VERIFY": "1" if certificates and certificates.verify else "",
            "DOCKER_CERT_PATH": str(directory or ""),
        }

    def address(self, name: str) -> DaemonAddress:
        """Return the place as data.

        Raises:
            BackendUnavailable: the URL is none, or a certificate cannot be read.
        """
        url = self.url.strip()
        if "://" not in url:
            url = f"tcp://{url}"
        try:
            parts = urlsplit(url)
            return self._address(parts, parts.port or 0)
        except ValueError as error:
            raise BackendUnavailable(
                name,
                f"{self.source} is no address of a daemon: {self.url!r}: {error}",
                resolution=f"write it as {_FORMS}",
            ) from error
        except OSError as error:
            raise BackendUnavailable(
                name,
                f"the certificates for {self.place} cannot be used: {error}",
                resolution="check ca.pem, cert.pem and key.pem there, and DOCKER_CERT_PATH",
            ) from error

    def _address(self, parts: SplitResult, port: int) -> DaemonAddress:
        scheme = parts.scheme.removeprefix("http+")
        if scheme == "unix":
            # unix://PATH without the third slash is accepted everywhere, so here, too.
            path = "/" + (parts.netloc + parts.path).lstrip("/")
            if path == "/":
                raise ValueError("the path of the socket is missing")
            return DaemonAddress("unix", path=path)
        if scheme not in ("tcp", "http", "https", "ssh"):
            raise ValueError(f"{scheme}:// is not known")
        if not parts.hostname:
            raise ValueError("the host is missing")
        if parts.password or parts.query or parts.fragment:
            raise ValueError("it has more than host, port and user")
        if scheme == "ssh":
            return DaemonAddress("ssh", host=parts.hostname, port=port, user=parts.username or "")
        if parts.path.strip("/"):
            raise ValueError("it has a path")
        certificates = self.certificates
        if scheme == "https" and certificates is None:
            certificates = Certificates(None, None, None, verify=True)
        tls = certificates.context() if certificates else None
        port = port or _PORTS[tls is not None]
        return DaemonAddress("tcp", host=parts.hostname, port=port, tls=tls)


def find_docker(environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Return where Docker is: DOCKER_HOST, else the current context, else the socket of this machine.

    Raises:
        BackendUnavailable: a context is named that does not exist.
    """
    if host := environment.get("DOCKER_HOST"):
        return Endpoint(host, "DOCKER_HOST", _certificates_of(environment))
    home = _configuration_directory(environment)
    name, said_by = environment.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        name, said_by = _current_context(home / "config.json"), str(home / "config.json")
    if name not in _NO_CONTEXT:
        return _context(home, name, said_by)
    return _default(environment)


def _default(environment: Mapping[str, str]) -> Endpoint:
    """Return the first socket that exists: of the system, of a rootless daemon, of Docker Desktop."""
    home, run = Path.home(), environment.get("XDG_RUNTIME_DIR")
    others = [
        *([Path(run) / "docker.sock"] if run else []),
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
    ]
    found = next((path for path in (_USUAL, *others) if _exists(path)), _USUAL)
    return Endpoint(f"unix://{found}", "the default")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory above that may not be looked into
        return False


def _configuration_directory(environment: Mapping[str, str]) -> Path:
    configured = environment.get("DOCKER_CONFIG")
    return Path(configured) if configured else Path.home() / ".docker"


def _certificates_of(environment: Mapping[str, str]) -> Certificates | None:
    verify, directory = environment.get("DOCKER_TLS_VERIFY"), environment.get("DOCKER_CERT_PATH")
    if not verify and not directory:
        return None
    path = Path(directory) if directory else _configuration_directory(environment)
    return _certificates_in(path, verify=bool(verify))


def _certificates_in(directory: Path, *, verify: bool) -> Certificates:
    files = [directory / name for name in ("ca.pem", "cert.pem", "key.pem")]
    ca, cert, key = (path if path.exists() else None for path in files)
    if verify and ca is None and cert is None:
        return Certificates(files[0], None, None, verify=True)  # to be complained about by name
    return Certificates(ca, cert, key, verify)


def _current_context(path: Path) -> str:
    try:
        configured = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # as for the docker CLI: then there is none
        return ""
    name = configured.get("currentContext") if isinstance(configured, dict) else None
    return name if isinstance(name, str) else ""


def _context(home: Path, name: str, said_by: str) -> Endpoint:
    """Return a context's endpoint. Format: docker CLI, `cli/context/store`."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / "contexts" / "meta" / digest / "meta.json"
    try:
        endpoint: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))["Endpoints"][
            "docker"
        ]
        host = endpoint["Host"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendUnavailable(
            "docker",
            f"there is no usable docker context {name!r}, which {said_by} names",
            resolution="choose one of `docker context ls` with `docker context use NAME`, or set DOCKER_HOST",
        ) from error
    directory = home / "contexts" / "tls" / digest / "docker"
    insecure = bool(endpoint.get("SkipTLSVerify"))
    certificates = _certificates_in(directory, verify=not insecure) if directory.is_dir() else None
    return Endpoint(str(host), f"docker context {name!r}", certificates)
