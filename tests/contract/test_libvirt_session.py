"""A user's own libvirt daemon, `qemu:///session`: what it cannot do is told, and its machines can be used."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.loopback_sshd import LoopbackSshd, serving
from tests.contract.sshd_machines import needs_sshd
from tests.faults.sessions import NOBODY, interpreter_for_nobody, start

pytestmark = [pytest.mark.daemon("libvirt"), needs_sshd]

_SECONDS = 90.0

# Firmware alone is enough: who answers is the sshd that the file names.
_DOMAIN = """
<domain type='qemu'><name>mine</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
<devices><memballoon model='none'/></devices></domain>
"""

_SCRIPT = f'''
import sys
import libvirt
from pytest_benchscale import Lab
from pytest_benchscale.errors import BenchscaleError

domain = libvirt.open("qemu:///session").createXML("""{_DOMAIN}""", libvirt.VIR_DOMAIN_START_AUTODESTROY)
for file in sys.argv[1:]:
    try:
        with Lab.open_sync(file, backend="libvirt") as lab:
            print("it says", next(iter(lab.nodes.values())).sync.exec("echo hello").stdout, flush=True)
    except BenchscaleError as error:
        print(error, flush=True)
print("it runs" if domain.isActive() else "it was ended")
'''

_NEW = """
network: {name: lan}
nodes: [{name: new, image: ./none.qcow2}]
"""

_EXISTING = """
nodes:
  - {{name: there, existing: mine, address: 127.0.0.1,
      ssh: {{user: root, port: {port}, key: ./key, known_hosts: ./known_hosts}}}}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a home for an ordinary user, whose libvirt daemon ends with it."""
    with tempfile.TemporaryDirectory(prefix="benchscale-session-", dir="/tmp") as name:
        home = Path(name)
        (home / "run").mkdir(mode=0o700)
        yield home
        _end_daemon(home / "run/libvirt/libvirtd.pid")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[LoopbackSshd]:
    """Run an sshd."""
    with serving(tmp_path) as sshd:
        yield sshd


def _end_daemon(file: Path) -> None:
    """End the daemon that libvirt has started; it would wait for two minutes."""
    with suppress(FileNotFoundError):
        pid = int(file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "the session's daemon does not end"
            time.sleep(0.05)


def test_a_users_own_daemon_makes_no_machines_and_lets_its_machines_be_used(
    home: Path, sshd: LoopbackSshd
) -> None:
    python = interpreter_for_nobody()
    if python is None:
        assert not os.environ.get("CI"), "no interpreter here can be run by an ordinary user"
        pytest.skip("no interpreter here can be run by an ordinary user")
    (home / "new.yaml").write_text(_NEW)
    (home / "existing.yaml").write_text(_EXISTING.format(port=sshd.port))
    shutil.copy(sshd.known_hosts, home / "known_hosts")
    shutil.copy(sshd.keys.user, home / "key")
    for path in (home, *home.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    environment = {"LIBVIRT_DEFAULT_URI": "qemu:///session", "XDG_RUNTIME_DIR": f"{home}/run"}
    argv = ["-c", _SCRIPT, "new.yaml", "existing.yaml"]
    with start(argv, cwd=home, env=environment, user=NOBODY, python=python) as process:
        try:
            output, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, output
    assert "a user's own daemon, which may make no bridges" in output
    assert "LIBVIRT_DEFAULT_URI=qemu:///system" in output
    assert "usermod -aG libvirt" in output
    assert "it says hello" in output
    assert "it runs" in output
