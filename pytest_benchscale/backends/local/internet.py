"""Internet access for a node by user-mode networking: no privileges, no rules or routes on the machine.

slirp4netns sits in a process of its own between a tap device in the node's network namespace and
ordinary sockets of the machine. That is the same for root: rules in the
machine's own tables would outlive a killed session and depend on its firewall. It ends when the
session does, since it watches a pipe that only the session holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

import anyio

from pytest_benchscale.backends.local import orphans
from pytest_benchscale.errors import LabError

__all__ = ["DEVICE", "NAME_SERVER", "Uplink", "missing_tool"]

DEVICE = "inet0"
NAME_SERVER = "10.0.2.3"  # in slirp4netns' own network, forwarded to the machine's resolver

_NS_GET_USERNS = 0xB701  # linux/nsfs.h: the user namespace that owns a namespace
_READY_SECONDS = 15.0


def missing_tool() -> str | None:
    """Return why there can be no internet access here; None: there can."""
    if shutil.which("slirp4netns"):
        return None
    return "internet access needs slirp4netns on PATH; install the package slirp4netns"


class Uplink:
    """One node's way out."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_pipe = -1
        self._errors = -1  # in memory: nobody may be there to read when it says something

    async def open(self, namespace: int) -> None:
        """Give the network namespace (fd) a device with a default route to the outside.

        Raises:
            LabError: the tool did not get ready; with what it printed.
        """
        owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
        exit_read, self._exit_pipe = os.pipe2(os.O_CLOEXEC)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        self._errors = os.memfd_create("benchscale-internet", os.MFD_CLOEXEC)
        passed = [namespace, owner, exit_read, ready_write]
        try:
            # Blocks for the 2 ms of a vfork.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                _command(namespace, owner, exit_read, ready_write),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            for fd in (owner, exit_read, ready_write):
                os.close(fd)
        try:
            with anyio.move_on_after(_READY_SECONDS):
                await anyio.wait_readable(ready_read)
                if os.read(ready_read, 1):
                    return
        finally:
            os.close(ready_read)
        raise LabError(
            f"node {self._node!r} got no internet access: {self._process.args!r} did not get ready",
            node=self._node,
            step="internet",
            details=self._end(),
            resolution="run the command by hand to see why, or set `internet: false`",
        )

    def hand_over(self) -> int:
        """Return the pipe by which the tool's life hangs; it is the caller's now."""
        pipe, self._exit_pipe = self._exit_pipe, -1
        if self._process is not None:
            orphans.leave(self._process)
            self._process = None
        self._end()
        return pipe

    def close(self) -> None:
        """End the tool."""
        self._end()

    def _end(self) -> str:
        process, self._process = self._process, None
        if self._exit_pipe >= 0:
            os.close(self._exit_pipe)
            self._exit_pipe = -1
        if process is not None:
            process.kill()
            process.wait()
        said = b""
        if self._errors >= 0:
            said = os.pread(self._errors, os.fstat(self._errors).st_size, 0)
            os.close(self._errors)
            self._errors = -1
        return said.decode(errors="replace").strip()


def _command(namespace: int, owner: int, exit_fd: int, ready_fd: int) -> list[str]:
    paths = [f"/proc/self/fd/{fd}" for fd in (namespace, owner)]
    return [
        "slirp4netns",
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        f"--exit-fd={exit_fd}",
        f"--ready-fd={ready_fd}",
        "--netns-type=path",
        f"--userns-path={paths[1]}",
        paths[0],
        DEVICE,
    ]
