"""An sshd on this machine's loopback, by which the libvirt daemon here is one of another machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.contract.sshd_machines import SSHD, Keys

__all__ = ["LoopbackSshd", "serving"]

_SECONDS_TO_START = 10.0
_CONFIG = """\
{more}
Port {port}
ListenAddress 127.0.0.1
HostKey {keys.host}
AuthorizedKeysFile {keys.user}.pub
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
"""
# Its empty directory, and nothing else, is of its own.
_BOX = """\
mkdir -p /run/sshd && mount -t tmpfs -o mode=755 none /run/sshd && exec "$@"
"""
# libvirt has netcat run at the other end, which is not always there.
_NETCAT = """\
#!{python}
import os, select, socket, sys

if "-U" not in sys.argv:
    sys.exit()
daemon = socket.socket(socket.AF_UNIX)
daemon.connect(sys.argv[-1])
while True:
    for source in select.select([0, daemon], [], [])[0]:
        data = os.read(0, 65536) if source == 0 else daemon.recv(65536)
        if not data:
            sys.exit()
        if source == 0:
            daemon.sendall(data)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
"""
_CLIENT = """\
#!/bin/sh
exec ssh -i {keys.user} -o UserKnownHostsFile={known_hosts} "$@"
"""


class LoopbackSshd:
    """One that runs: its keys, its port, and the file in which its host key is."""

    def __init__(self, directory: Path, keys: Keys, port: int, process: subprocess.Popen[bytes]):
        self.directory = directory
        self.keys = keys
        self.port = port
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{port} {keys.public(keys.host)}")
        self._process = process
        self._script("netcat", _NETCAT.format(python=sys.executable))
        self._script("client", _CLIENT.format(keys=keys, known_hosts=self.known_hosts))

    def uri(self, of: str, **changes: str) -> str:
        """Return the URI by which the daemon at `of`, one of this machine, is reached through it."""
        said = {
            "socket": dict(parse_qsl(urlsplit(of).query)).get(
                "socket", "/var/run/libvirt/libvirt-sock"
            ),
            "netcat": str(self.directory / "netcat"),
            "command": str(self.directory / "client"),
            "keyfile": str(self.keys.user),
            "known_hosts": str(self.known_hosts),
            **changes,
        }
        return f"qemu+ssh://root@127.0.0.1:{self.port}/system?{urlencode(said, safe='/')}"

    def cut_newest(self) -> None:
        """End what serves the connection that was made last."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        os.kill(max(map(int, children.split())), signal.SIGKILL)

    def _script(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)


@contextmanager
def serving(directory: Path, more: str = "") -> Iterator[LoopbackSshd]:
    """Run one; `more` is for its configuration."""
    keys = Keys(directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = directory / "sshd_config"
    config.write_text(_CONFIG.format(more=more, port=port, keys=keys))
    sshd = [str(SSHD), "-D", "-E", str(directory / "log"), "-f", str(config)]
    box = [str(shutil.which("unshare")), "--mount", "sh", "-euc", _BOX, "sh"]
    with subprocess.Popen([*box, *sshd], stdin=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield LoopbackSshd(directory, keys, port, process)
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("sshd does not start")
