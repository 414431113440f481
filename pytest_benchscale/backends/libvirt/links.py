"""Where conditions and cuts of guests are applied: at their taps, on the daemon's machine."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping, Sequence

import asyncssh
from anyio import to_thread

from pytest_benchscale.backends import kernel
from pytest_benchscale.backends.base import Capability, NodePlan
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.naming import Names
from pytest_benchscale.backends.ssh.conduit import MachineConduit
from pytest_benchscale.backends.ssh.root_shell import Start
from pytest_benchscale.errors import LabError, NotSupported
from pytest_benchscale.network.keeping import Keeping
from pytest_benchscale.network.link import Link, Side
from pytest_benchscale.network.steps import Step
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.shell.streams import Stream
from pytest_benchscale.transports.ssh.channel import ChannelStream
from pytest_benchscale.transports.ssh.jump import Jump
from pytest_benchscale.transports.ssh.login import LoginFailed
from pytest_benchscale.transports.ssh.users import switched

__all__ = ["Taps"]

_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})


class Taps:
    """The host's ends of the links of one lab's guests, until `aclose`."""

    def __init__(self, connection: Connection, names: Names, timeout_scale: float) -> None:
        self._names = names
        self._uri = connection.uri
        self._conduit: _Here | MachineConduit | None = None
        if connection.is_local:
            self._conduit = _Here()
        elif (way := connection.way) is not None:
            where = f"the daemon's machine {way.login.host}"
            self._conduit = MachineConduit(where, _there(way), timeout_scale=timeout_scale)

    def of(self, plan: NodePlan) -> Mapping[str, Link]:
        """Return the links of a guest, by network.

        Raises:
            NotSupported: the daemon's machine cannot be reached.
        """
        conduit = self._reached()
        return {
            interface.network: Link(self._names.tap(plan.name, number), Side.OUTSIDE, conduit)
            for number, interface in enumerate(plan.interfaces, 1)
        }

    async def has_netem(self) -> bool:
        """Return whether the kernel of the daemon's machine can delay and lose packets.

        Raises:
            NotSupported: that machine cannot be reached.
            LabError: traffic control may not be changed there.
        """
        return await self._reached().has_netem()

    async def aclose(self) -> None:
        """Have everything taken away that was set. Safe to call twice."""
        if self._conduit is not None:
            await self._conduit.aclose()

    def _reached(self) -> _Here | MachineConduit:
        if self._conduit is None:
            raise NotSupported(
                "libvirt",
                Capability.CONDITIONS,
                details=f"the daemon at {self._uri} is on another machine, to which we cannot log in",
                resolution="use a daemon on this machine, or by ssh: qemu+ssh://HOST/system",
            )
        return self._conduit


class _Here:
    """The conduit to this machine's own network namespace."""

    def __init__(self) -> None:
        self._keeping = Keeping()

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps; raises as `Keeping` does, with what to do where the right is missing."""
        try:
            await self._keeping.change(steps)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                raise _forbidden(error) from error
            raise

    async def has_netem(self) -> bool:
        """Return whether this machine's kernel can delay and lose packets."""
        try:
            return await to_thread.run_sync(kernel.has_netem)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                raise _forbidden(error) from error
            raise

    async def aclose(self) -> None:
        """Have everything taken away."""
        await self._keeping.aclose()


def _forbidden(error: OSError) -> LabError:
    return LabError(
        "conditions and partitions of virtual machines need the right to change this machine's traffic "
        "control, at their taps",
        step="conditions",
        details=str(error),
        resolution="run pytest as root, or with the capability CAP_NET_ADMIN",
    )


def _there(way: Jump) -> Start:
    """Return what starts a command on the daemon's machine."""

    async def start(command: Command) -> Stream:
        try:
            connection = await way.connected()
            stream = ChannelStream(way.login.host)
            words = shlex.join(switched(command).argv)
            await connection.create_session(lambda: stream, words, encoding=None)
        except LoginFailed as failed:
            raise LabError(
                failed.reason, step="conditions", resolution=failed.resolution
            ) from failed
        except (OSError, asyncssh.Error) as error:
            raise LabError(
                f"{way.login} runs no command for us: {error}",
                step="conditions",
                resolution="look at MaxSessions in its sshd_config, and at what its log says",
            ) from error
        return stream

    return start
