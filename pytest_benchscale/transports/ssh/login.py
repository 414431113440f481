"""How to log in to a machine, and what it means when that fails."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

from pytest_benchscale.errors import LabError

if TYPE_CHECKING:
    from pytest_benchscale.transports.ssh.jump import Jump

__all__ = ["DEFAULT_PORT", "HostKeys", "Login", "LoginFailed", "explain"]

DEFAULT_PORT = 22


@dataclass(frozen=True, slots=True)
class HostKeys:
    """Which key a machine must show: one of a file's, one that is known, or any.

    Without `path` the user's and the machine's own known_hosts files count.
    """

    path: Path | None = None
    pinned: bytes | None = None  # a public key in OpenSSH's format
    unchecked: bool = False

    def option(self) -> Any:
        """Return what asyncssh takes for `known_hosts`."""
        if self.unchecked:
            return None
        if self.pinned is not None:
            return ([asyncssh.import_public_key(self.pinned)], [], [])
        return () if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True)
class Login:
    """Where a machine is and who logs in there.

    With `through`, it is reached from another machine. With `reads_config`, what the user's own ssh_config
    says counts where nothing is said here, port 22 included.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    key: Path | None = None
    host_keys: HostKeys = HostKeys()
    timeout_scale: float = 1.0
    through: Jump | None = field(default=None, repr=False, compare=False)
    reads_config: bool = False

    @property
    def connect_seconds(self) -> float:
        """How long it may take to connect, and then to log in."""
        return 15.0 * self.timeout_scale

    @property
    def keepalive_seconds(self) -> float:
        """How long a machine may say nothing before it is asked whether it is there."""
        return 5.0 * self.timeout_scale

    @property
    def restart_seconds(self) -> float:
        """How long a machine that was there may take until it is there again."""
        return 60.0 * self.timeout_scale

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}:{self.port}"


class LoginFailed(Exception):
    """There is no connection; says why, and whether it may be better in a moment."""

    def __init__(self, reason: str, *, resolution: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.resolution = resolution
        self.passing = passing

    def as_error(self, node: str, step: str = "ssh") -> LabError:
        """Return the error of a node whose machine this is about."""
        return LabError(self.reason, node=node, step=step, resolution=self.resolution)


def explain(login: Login, error: Exception) -> LoginFailed:
    """Return what a failed attempt means."""
    for kind, make in _MEANINGS:
        if isinstance(error, kind):
            return make(login, error)
    return LoginFailed(
        f"ssh to {login} failed: {error}",
        resolution=f"try `ssh -v -p {login.port} {login.host}`",
        passing=isinstance(error, (OSError, asyncssh.DisconnectError)),
    )


def _refused_login(login: Login, error: Exception) -> LoginFailed:
    tried = [
        *(["the password"] if login.password is not None else []),
        *([f"the key {login.key}"] if login.key is not None else []),
    ] or ["the keys of the agent and of ~/.ssh"]
    who = f" for {login.user!r}" if login.user else ""
    return LoginFailed(
        f"{login.host}:{login.port} refused the login{who} with {' and '.join(tried)}",
        resolution="correct `user`, `password` or `key` under `ssh:`",
    )


def _wrong_host_key(login: Login, error: Exception) -> LoginFailed:
    known = login.host_keys.path or "the known_hosts files"
    if login.host_keys.pinned is not None:
        known = "the key that it was given"
    return LoginFailed(
        f"{login.host}:{login.port} shows a host key that is not that of {known}: {error}",
        resolution="make sure that it is the right machine; then correct the known_hosts file, or name "
        "another one under `ssh:`, `known_hosts: PATH` or `known_hosts: none`",
    )


def _no_answer(login: Login, error: Exception) -> LoginFailed:
    return LoginFailed(
        f"{login.host}:{login.port} did not answer as an sshd within {login.connect_seconds:g} s",
        resolution="check that the machine is up, and that no firewall is between",
        passing=True,
    )


def _no_host(login: Login, error: Exception) -> LoginFailed:
    return LoginFailed(
        f"there is no machine of the name {login.host!r}: {error}",
        resolution="correct `address`",
    )


def _not_listening(login: Login, error: Exception) -> LoginFailed:
    return LoginFailed(
        f"no sshd listens at {login.host}:{login.port}",
        resolution="start it, or correct `address`, or `port` under `ssh:`",
        passing=True,
    )


def _no_key(login: Login, error: Exception) -> LoginFailed:
    return LoginFailed(
        f"the key {login.key} cannot be used: {error}",
        resolution="correct `key` under `ssh:`; it must be a private key without a passphrase",
    )


def _no_command(login: Login, error: Exception) -> LoginFailed:
    return LoginFailed(
        f"{login} runs no command for us: {error}",
        resolution="look at MaxSessions in its sshd_config, and at what its log says",
    )


_MEANINGS: tuple[tuple[type[Exception], Callable[[Login, Exception], LoginFailed]], ...] = (
    (asyncssh.HostKeyNotVerifiable, _wrong_host_key),
    (asyncssh.PermissionDenied, _refused_login),
    (asyncssh.KeyImportError, _no_key),
    (FileNotFoundError, _no_key),
    (asyncssh.ChannelOpenError, _no_command),
    (TimeoutError, _no_answer),
    (socket.gaierror, _no_host),
    (ConnectionRefusedError, _not_listening),
)
