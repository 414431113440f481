"""A daemon on another machine, reached through ssh, as a socket on this one.

The Docker SDK brings ssh along only with a library of its own, and without deadlines. Here every
connection to a private socket becomes one `ssh HOST docker system dial-stdio` that has that connection as
its input and output; ssh shares one login among them all.
"""

from __future__ import annotations

import contextlib
import selectors
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CONNECT_SECONDS", "SSHTunnel"]

CONNECT_SECONDS = 10
"""How long ssh tries to get a connection and a login."""

_LOGIN_SECONDS = 30  # the shared login outlives its last user by that, also when we were killed
_END_SECONDS = 5.0
_COMPLAINT_LINES = 5
_LONGEST_DIRECTORY = 60  # a socket's path has 108 bytes, and ssh adds some of its own


class SSHTunnel:
    """A socket at `path`, from now until `close`; each connection to it is one to the daemon there.

    ssh never asks: what needs a password or a yes must be set up before.
    """

    def __init__(self, host: str, user: str, port: int, command: Sequence[str]) -> None:
        parent = tempfile.gettempdir()
        short = parent if len(parent) < _LONGEST_DIRECTORY else "/tmp"  # noqa: S108  mkdtemp's below
        self._directory = Path(tempfile.mkdtemp(prefix="benchscale-", dir=short))
        self.path = self._directory / "daemon"
        self._log = self._directory / "log"
        self._ssh = [
            *("ssh", "-T", "-x", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"),
            *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "-o", "LogLevel=ERROR"),
            *("-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={self._directory / 'login'}"),
            *("-o", f"ControlPersist={_LOGIN_SECONDS}"),
            *(("-l", user) if user else ()),
            *(("-p", str(port)) if port else ()),
        ]
        self._target = ["--", host]
        self._dial = [*self._ssh, *self._target, shlex.join(command)]
        self._children: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="benchscale-ssh", daemon=True)
        self._thread.start()

    def complaint(self) -> str:
        """Return what ssh, and the command over there, said last; empty: nothing."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:  # nobody has connected yet, or everything is closed
            return ""
        said = dict.fromkeys(line.rstrip() for line in lines if line.strip())  # once for many tries
        return "\n".join(list(said)[-_COMPLAINT_LINES:])

    def close(self) -> None:
        """End every connection, and the login. Safe to call twice."""
        if self._wake.fileno() < 0:
            return
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._listener.close()
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._log_out()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _log_out(self) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*self._ssh, "-O", "exit", *self._target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_END_SECONDS,
                check=False,
            )

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while self._woken not in {key.fileobj for key, _ in selector.select()}:
                connection, _ = self._listener.accept()
                with connection:
                    self._connect(connection)

    def _connect(self, connection: socket.socket) -> None:
        """Have ssh serve a connection; when it cannot be started, the connection just ends."""
        self._children = [child for child in self._children if child.poll() is None]
        with self._log.open("ab") as log:
            try:
                child = subprocess.Popen(
                    self._dial,
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is ours: teardown still needs the connection
                )
            except OSError as error:
                log.write(f"ssh cannot be started: {error}\n".encode())
            else:
                self._children.append(child)
