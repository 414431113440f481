"""A connection to a libvirt daemon, here or elsewhere. Its calls run in worker threads."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import libvirt
from anyio import to_thread

from pytest_benchscale.backends.libvirt.events import run_event_loop
from pytest_benchscale.backends.libvirt.remote import way_to
from pytest_benchscale.errors import BackendUnavailable

__all__ = ["Connection", "connect", "default_uri", "is_local", "open_raw"]

T = TypeVar("T")

_CONNECT_SECONDS = 20.0
_AT_ONCE = 16  # calls to one daemon
_START = (
    "install and start it: on Debian and Ubuntu `apt-get install libvirt-daemon-system`, then "
    "`systemctl start libvirtd`; LIBVIRT_DEFAULT_URI names a daemon elsewhere"
)
_JOIN = (
    "join the group that may use it, `usermod -aG libvirt $USER`, and log in anew; or run as root; "
    "or, for machines that are there already, use your own daemon, LIBVIRT_DEFAULT_URI=qemu:///session"
)
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        r"socket to '(?P<path>[^']*)': No such file",
        "no libvirt daemon runs at {uri}: there is no {path}",
        _START,
    ),
    (
        r"socket to '(?P<path>[^']*)': Connection refused",
        "no libvirt daemon answers at {uri}: nobody listens at {path}",
        _START,
    ),
    (
        r"socket to '(?P<path>[^']*)': Permission denied",
        "this user may not use the libvirt daemon at {uri}",
        _JOIN,
    ),
    (
        r"authentication (unavailable|failed|cancelled)|polkit|not authorized|access denied",
        "this user may not use the libvirt daemon at {uri}",
        _JOIN,
    ),
    (
        r"Host key verification failed|Host key is not known|host key .* mismatch",
        "the machine of {uri} shows a host key that is not known: {text}",
        "log in there once by `ssh` and accept its key, if it is the right one",
    ),
    (
        r"Permission denied \([a-z]",
        "the machine of {uri} refuses the login: {text}",
        "have the agent hold a key that it takes, or name one with no passphrase in the URI: `keyfile=PATH`",
    ),
    (
        r"End of file while reading data|ssh|Host key",
        "the machine of {uri} cannot be reached, or lets nobody in: {text}",
        "try `virsh -c {quoted} version`; the login must need no password",
    ),
)


def default_uri() -> str:
    """Return what the user's environment says, else the machine's own daemon."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"


class Connection:
    """An open connection."""

    def __init__(self, uri: str, connection: Any) -> None:
        self.uri = uri
        self.raw = connection
        self.is_local = is_local(uri)
        self.way = way_to(uri)
        """What leads to the networks of the daemon's machine, where that is another one and lets us in."""
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Let something be done in a thread, to its end, also when the caller is cancelled meanwhile.

        Raises:
            libvirt.libvirtError: the daemon refused, or is gone.
        """
        return await to_thread.run_sync(lambda: function(*arguments), limiter=self._limiter)

    async def aclose(self) -> None:
        """Close the connection, and the way."""
        if self.way is not None:
            self.way.close()
        await to_thread.run_sync(_close, self.raw)


def open_raw(uri: str) -> Any:
    """Connect, in a thread. A program for ssh asks nobody, since there is nobody to answer.

    Raises:
        libvirt.libvirtError: that failed.
    """
    if uri.startswith("qemu+ssh://") and "no_tty=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}no_tty=1"
    return libvirt.open(uri)


async def connect(name: str, uri: str | None = None) -> Connection:
    """Connect the backend `name`; without a URI, to what the environment says.

    Raises:
        BackendUnavailable: there is no daemon, or it lets us not in; says why and what to do.
    """
    wanted = uri or default_uri()
    run_event_loop()
    try:
        with anyio.fail_after(_CONNECT_SECONDS):
            opened = await to_thread.run_sync(open_raw, wanted, abandon_on_cancel=True)
    except TimeoutError:
        raise BackendUnavailable(
            name,
            f"the libvirt daemon at {wanted} did not answer within {_CONNECT_SECONDS:g} s",
            resolution=f"look at its log; try `virsh -c {shlex.quote(wanted)} version`",
        ) from None
    except libvirt.libvirtError as error:
        raise _explain(name, wanted, error) from error
    connection = Connection(wanted, opened)
    kind = await connection.call(opened.getType)
    if kind.lower() != "qemu":
        await connection.aclose()
        raise BackendUnavailable(
            name,
            f"{wanted} is a connection to {kind}, and only QEMU's is of use",
            resolution="set LIBVIRT_DEFAULT_URI=qemu:///system",
        )
    return connection


def _explain(name: str, uri: str, error: libvirt.libvirtError) -> BackendUnavailable:
    text = error.get_error_message() or str(error)
    for pattern, reason, resolution in _MEANINGS:
        if match := re.search(pattern, text, re.IGNORECASE):
            words = {"uri": uri, "quoted": shlex.quote(uri), "text": text, **match.groupdict()}
            return BackendUnavailable(
                name, reason.format(**words), resolution=resolution.format(**words)
            )
    return BackendUnavailable(
        name,
        f"the libvirt daemon at {uri} refuses: {text}",
        resolution=f"try `virsh -c {shlex.quote(uri)} version`",
    )


def is_local(uri: str) -> bool:
    """Return whether a URI is of this machine: qemu:///system, qemu+unix:///session?socket=..."""
    return re.match(r"qemu(\+unix)?:///", uri) is not None


def _close(connection: Any) -> None:
    with suppress(libvirt.libvirtError):  # it was gone
        connection.close()
