"""A dockerd that one test has to itself, to freeze, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.daemons.endpoints import connection
from tests.daemons.images import IMAGES
from tests.daemons.loading import load
from tests.daemons.needs import skip_or_fail
from tests.daemons.packages import search_path
from tests.daemons.roots import BuildError, tarball
from tests.daemons.service import Holder, is_alive, wait_until_answering

__all__ = ["PrivateDockerd", "private_dockerd"]

_SECONDS = 60.0

# In namespaces of its own, with a /run of its own: bridges, firewall rules, mounts and sockets of
# the machine's daemon are out of its reach, and its own are gone with the last of its processes.
_APART = (
    *("unshare", "--net", "--mount", "sh", "-c"),
    *('mount -t tmpfs none /run && exec "$@"', "sh"),
)


class PrivateDockerd:
    """A running dockerd; `private_dockerd` makes one."""

    def __init__(self, holder: Holder, directory: Path) -> None:
        """Make one that is not running yet, with everything of it in a directory."""
        self.host = f"unix://{directory}/docker.sock"
        self.log = directory / "docker.log"
        self.pid = 0
        self._holder = holder
        self._directory = directory

    def start(self) -> None:
        """Start it, on what an earlier start left, and wait until it answers."""
        assert not self.running
        (self._directory / "docker.pid").unlink(missing_ok=True)
        (self._directory / "docker.json").write_text("{}")  # not the machine's
        directory = self._directory
        command = [
            *("dockerd", "--config-file", f"{directory}/docker.json", "--host", self.host),
            *("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
            *("--pidfile", f"{directory}/docker.pid"),
            # Not systemd's, which knows nothing of it.
            *(
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
                "--cgroup-parent",
                f"/{directory.name}",
            ),
        ]
        self.pid = self._holder.start(command, self.log, {"PATH": search_path()})
        wait_until_answering(self.host, self.pid, self.log, _SECONDS)

    @property
    def running(self) -> bool:
        """Whether the daemon's process is there, frozen or not."""
        return self.pid != 0 and is_alive(self.pid)

    def freeze(self) -> None:
        """Have it answer nothing, with SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon alone, with SIGKILL; its containers go on until it is started again."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as a service manager does, with SIGTERM: it stops its containers first."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        deadline = time.monotonic() + _SECONDS
        while self.running:
            if time.monotonic() > deadline:
                raise TimeoutError(f"dockerd has not ended {_SECONDS:.0f} s after {number.name}")
            time.sleep(0.02)
        self.pid = 0


@contextmanager
def private_dockerd(images: Sequence[str] = ("debian",)) -> Iterator[PrivateDockerd]:
    """Start a dockerd with some test images; on leaving everything of it is gone.

    Without root or dockerd the test is skipped; in CI it fails.
    """
    if os.geteuid() != 0:
        skip_or_fail("needs root, to start a dockerd")
    if shutil.which("dockerd", path=search_path()) is None:
        skip_or_fail("dockerd is not installed")
    try:
        tarballs = {image: tarball(IMAGES[image].root) for image in images}
    except BuildError as error:
        skip_or_fail(f"a test image is missing: {error}")
    # A path short enough for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        directory = Path(name)
        try:
            with Holder(grace=0, prefix=_APART) as holder:
                dockerd = PrivateDockerd(holder, directory)
                dockerd.start()
                with connection(dockerd.host) as client:
                    for image, path in tarballs.items():
                        load(client, image, path)
                yield dockerd
        finally:
            _remove_cgroups(directory.name)


def _remove_cgroups(name: str) -> None:
    """Remove what is left of control groups; nothing is in them any more."""
    root = Path("/sys/fs/cgroup")
    for top in (*root.glob(name), *root.glob(f"*/{name}")):
        for path, _, _ in os.walk(top, topdown=False):
            Path(path).rmdir()
