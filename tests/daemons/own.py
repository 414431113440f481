"""Daemons of our own, for a machine on which none answers.

They keep nothing where a daemon of the user's would: images stay in the cache, the rest in a
directory of the run. So whatever is in them is ours, and can be thrown away.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from tests.daemons.endpoints import connection
from tests.daemons.images import IMAGES, reference
from tests.daemons.loading import has, load, names
from tests.daemons.packages import search_path
from tests.daemons.roots import cache_directory, tarball
from tests.daemons.service import Holder, NotStarted, is_alive, wait_until_answering

__all__ = ["clear", "run_directory", "start_docker", "start_podman", "unmount_left"]

_SECONDS_TO_START = 60.0
_BUILT_IN = ("bridge", "host", "none", "podman")  # networks

# For a kernel with cgroups of both versions, and where limits cannot be raised: there, podman's own
# choices do not start a container.
_CAREFUL = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


def run_directory() -> Path:
    """Return the directory for sockets and the like: one for each user of the machine."""
    user = os.geteuid()
    base = "/run" if user == 0 else os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    directory = Path(base) / f"bench-test-{user}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def start_docker(holder: Holder) -> str:
    """Start dockerd and return its address.

    Raises:
        NotStarted: it did not come up.
    """
    program = shutil.which("dockerd", path=search_path())
    assert program
    run, data = run_directory(), _data("docker")
    configuration = run / "docker.json"
    configuration.write_text("{}")  # not the user's
    (run / "docker.pid").unlink(missing_ok=True)
    log = run / "docker.log"
    log.unlink(missing_ok=True)
    url = f"unix://{run}/docker.sock"
    command = [
        *(program, "--config-file", str(configuration), "--host", url),
        *("--data-root", str(data), "--exec-root", str(run / "docker")),
        *("--pidfile", str(run / "docker.pid")),
    ]
    pid = holder.start(command, log, {"PATH": search_path()})
    wait_until_answering(url, pid, log, _SECONDS_TO_START)
    return url


def start_podman(holder: Holder) -> tuple[str, dict[str, str]]:
    """Start podman's service; return its address and its settings, as variables for commands.

    Raises:
        NotStarted: it did not come up, or cannot run a container.
    """
    configuration = run_directory() / "containers.conf"
    configuration.write_text(_CAREFUL)
    careful = {"CONTAINERS_CONF": str(configuration)}
    for settings in ({}, careful):
        url, pid = _serve_podman(holder, settings)
        with connection(url) as client:
            reason = _why_nothing_runs(client)
        if not reason:
            return url, settings
        _stop(pid)
    raise NotStarted(f"it cannot run a container: {reason}")


def _why_nothing_runs(client: Any) -> str:
    """Run a container the way that labs do; return what went wrong, or nothing."""
    clear(client)
    if not has(client, "bare"):
        load(client, "bare", tarball("bare"))
    client.networks.create("probe")
    try:
        command = ["/usr/bin/python3", "-c", "pass"]
        container = client.containers.run(
            reference("bare"), command, network="probe", init=True, name="probe", detach=True
        )
        container.wait(timeout=_SECONDS_TO_START)
    except APIError as error:
        return str(error.explanation or error)
    finally:
        clear(client)
    return ""


def clear(client: Any) -> int:
    """Remove everything but the test images from a daemon that is ours; return how much it was."""
    images = {name for wanted in IMAGES for name in names(wanted)}
    containers = client.containers.list(all=True)
    networks = [network for network in client.networks.list() if network.name not in _BUILT_IN]
    volumes = client.volumes.list()
    for container in containers:
        _remove(partial(container.remove, force=True, v=True))
    for network in networks:
        _remove(network.remove)
    for volume in volumes:
        _remove(partial(volume.remove, force=True))
    for image in client.images.list():
        if not images & set(image.tags):  # of another recipe
            _remove(partial(client.images.remove, image.id, force=True))
    return len([*containers, *networks, *volumes])


def _remove(remove: Callable[[], object]) -> None:
    """Remove one thing; podman refuses to while a container is about to end."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            remove()
        except NotFound:
            return
        except APIError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.1)


def _serve_podman(holder: Holder, settings: Mapping[str, str]) -> tuple[str, int]:
    """Start podman's service with some settings; return its address and number."""
    program = shutil.which("podman", path=search_path())
    assert program
    run = run_directory()
    # Its database remembers where the run's directory is, and does not take another.
    data = _data(f"podman-{hashlib.sha256(str(run).encode()).hexdigest()[:8]}")
    log = run / "podman.log"
    log.unlink(missing_ok=True)
    socket = run / "podman.sock"
    socket.unlink(missing_ok=True)
    command = [
        *(program, "--root", str(data), "--runroot", str(run / "podman")),
        *("--tmpdir", str(run / "podman-tmp"), "--network-config-dir", str(data / "networks")),
        *("system", "service", "--time", "0", f"unix://{socket}"),
    ]
    pid = holder.start(command, log, {"PATH": search_path(), **settings})
    wait_until_answering(f"unix://{socket}", pid, log, _SECONDS_TO_START)
    return f"unix://{socket}", pid


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _SECONDS_TO_START
    while is_alive(pid):
        if time.monotonic() > deadline:
            raise NotStarted("it does not end")
        time.sleep(0.02)


def unmount_left() -> None:
    """Unmount what daemons of ours have left mounted; podman leaves one even when all went well."""
    ours = (f"{run_directory()}/", f"{cache_directory()}/")
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in reversed(mounts):
        if path.startswith(ours):
            subprocess.run(["umount", path], capture_output=True, check=False)


def _data(name: str) -> Path:
    directory = cache_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory
