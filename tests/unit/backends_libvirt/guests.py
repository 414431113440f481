"""A guest for tests: a real ssh server in this process, whose commands see a /run and a boot id of their own.

They run in a mount namespace, in which the guest's directories are bound over those of this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.login import HostKeys, Login

STAGES = ("init-local", "init", "modules-config", "modules-final")
_NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
_INSIDE = """\
mount --bind {root}/run /run && mount --bind {root}/log /var/log &&
mount --bind {root}/boot_id /proc/sys/kernel/random/boot_id || exit 125
PATH={root}/bin:{path}; export PATH
exec /bin/sh -c {command}
"""


def can_run() -> bool:
    """Return whether this machine lets us make a mount namespace."""
    if shutil.which("unshare") is None:
        return False
    mount = [*_NAMESPACE, "mount", "--bind", "/tmp", "/run"]
    return subprocess.run(mount, check=False, capture_output=True, timeout=10).returncode == 0


class FakeGuest:
    """A machine that boots when it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("run", "log", "bin"):
            (root / name).mkdir()
        self.key = root / "key"
        user = asyncssh.generate_private_key("ssh-ed25519")
        user.write_private_key(str(self.key))
        self.authorized: asyncssh.SSHKey | None = user.convert_to_public()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.shown_key = self.host_key
        self.system("running")
        self._path = os.environ["PATH"]
        self._lives = 0
        self._servers: list[asyncssh.SSHAcceptor] = []
        self._connections: list[asyncssh.SSHServerConnection] = []
        self._processes: list[asyncio.subprocess.Process] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.power_on()

    # --- the machine ---

    def power_on(self) -> None:
        """Begin a boot: nothing is in /run yet."""
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()
        (self.root / "boot_id").write_text(f"{uuid.uuid4()}\n")

    async def listen(self) -> None:
        """Start the sshd."""
        self._servers.append(
            await asyncssh.listen(
                "127.0.0.1",
                self.port,
                server_factory=lambda: _Gate(self),
                server_host_keys=[self.shown_key],
                process_factory=self._run,
                encoding=None,
                reuse_address=True,
            )
        )

    async def power_off(self) -> None:
        """End everything at once, also what is only beginning."""
        self._lives += 1
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.abort()
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for server in self._servers:
            await server.wait_closed()
        self._servers, self._connections, self._processes = [], [], []

    def system(self, state: str, *, failed: bool = False) -> None:
        """Say what systemd says."""
        script = (
            f'#!/bin/sh\ncase "$*" in *is-failed*) exit {0 if failed else 1};; esac\necho {state}\n'
        )
        unfinished = self.root / "systemctl"
        unfinished.write_text(script)
        unfinished.chmod(0o755)
        unfinished.replace(self.root / "bin" / "systemctl")  # the old one may be running

    def hide(self, *programs: str) -> None:
        """Have no such programs."""
        tools = self.root / "tools"
        tools.mkdir()
        for directory in ("/usr/bin", "/usr/sbin"):
            for program in Path(directory).iterdir():
                if program.name not in programs and not (tools / program.name).exists():
                    (tools / program.name).symlink_to(program)
        self._path = str(tools)

    # --- cloud-init ---

    def status(self, stage: str | None, **more: dict[str, Any]) -> None:
        """Write status.json as cloud-init does; `more` is of stages, such as their errors."""
        stages = {
            name: {"errors": [], "start": 1.0, "finished": None}
            | more.get(name.replace("-", "_"), {})
            for name in STAGES
        }
        document = {"v1": {"datasource": "DataSourceNoCloud", "stage": stage, **stages}}
        self._write("status.json", document)

    def finish(self, **more: dict[str, Any]) -> None:
        """Write what cloud-init writes at its end."""
        self.status(None, **more)
        errors = [error for stage in more.values() for error in stage.get("errors", [])]
        self._write("result.json", {"v1": {"datasource": "DataSourceNoCloud", "errors": errors}})

    def _write(self, name: str, document: object) -> None:
        directory = self.root / "run" / "cloud-init"
        directory.mkdir(exist_ok=True)
        unfinished = directory / f".{name}"
        unfinished.write_text(json.dumps(document, indent=1))
        unfinished.replace(directory / name)

    # --- the way in ---

    def transport(self, *, fate: BenchscaleError | None = None) -> SshTransport:
        """Return a way in, as a backend has it."""
        login = Login(
            "127.0.0.1",
            self.port,
            user="root",
            key=self.key,
            host_keys=HostKeys(pinned=self.host_key.export_public_key()),
        )

        async def asked() -> BenchscaleError | None:
            return fate

        return SshTransport("guest", login, env={}, fate=asked)

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        life = self._lives
        command = shlex.quote(process.command or "")
        script = _INSIDE.format(root=self.root, path=self._path, command=command)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *(*_NAMESPACE, "/bin/sh", "-c", script),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        self._processes.append(child)
        if life != self._lives:
            os.killpg(child.pid, signal.SIGKILL)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
        try:
            await asyncio.gather(
                _pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr)
            )
            process.exit(await child.wait())
        finally:
            feeding.cancel()
            child._transport.close()  # type: ignore[attr-defined]  # its pipes, read to the end or not


async def _pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(1 << 16):
        with suppress(OSError):  # who asked is away; read on, so that the command can end
            target.write(data)


async def _feed(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            target.write(data)
    target.close()


class _Gate(asyncssh.SSHServer):
    def __init__(self, guest: FakeGuest) -> None:
        self._guest = guest

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._guest._connections.append(conn)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "root" and key == self._guest.authorized
