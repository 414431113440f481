"""An sshd on loopback as a field of contestants: a machine that is there already.

It has process numbers, a home for root and a /srv of its own, which are gone with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep

from benchmarks.contestants import ContestantError, Field

BACKEND = "ssh"
NAMES = ("ours", "asyncssh", "openssh")
SECONDS_TO_START = 10.0

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
_BOX = """\
for d in /root /run /srv; do mount -t tmpfs none $d; done
mkdir /run/sshd && exec "$@"
"""
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""


@contextmanager
def serving(directory: Path, without: Container[str]) -> Iterator[Field]:
    """Run the sshd; give who can take part.

    Raises:
        ContestantError: there is none.
    """
    if os.geteuid():
        raise ContestantError("not available: it needs root")
    program = shutil.which("sshd", path=_PATH)
    if program is None:
        raise ContestantError("not installed: openssh-server")
    for name in ("user", "host"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(key, check=True)
    port = _free_port()
    config = directory / "sshd_config"
    config.write_text(_CONFIG.format(port=port, directory=directory))
    box = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    sshd = [program, "-D", "-E", str(directory / "log"), "-f", str(config)]
    with subprocess.Popen([*box, "sh", "-euc", _BOX, "sh", *sshd]) as process:
        try:
            _wait_for(port, process)
            yield _find(directory / "user", port, without)
        finally:
            process.kill()


def describe() -> str:
    """Return what the figures were measured with."""
    client = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    return f"{client.stderr.strip()}, asyncssh (PyPI) {version('asyncssh')}"


def _find(key: Path, port: int, without: Container[str]) -> Field:
    login = f"{{user: root, port: {port}, key: {key}, known_hosts: none}}"
    machine = f"existing: this, address: 127.0.0.1, ssh: {login}"
    arguments = {
        "ours": ("ours", BACKEND, "", machine),
        "asyncssh": ("asyncssh", str(port), str(key)),
        "openssh": ("openssh", str(port), str(key)),
    }
    found = Field()
    for name, (module, *rest) in arguments.items():
        if name in without:
            found.absent[name] = "left out: --without"
        else:
            found.argv[name] = (sys.executable, "-m", f"benchmarks.workers.{module}", *rest)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + SECONDS_TO_START
    while process.poll() is None and monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.05)
        else:
            return
    raise ContestantError("sshd does not start")
