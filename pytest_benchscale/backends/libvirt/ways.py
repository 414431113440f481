"""The ways to a guest: its console, and the login by its management address."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.keys import LabKeys
from pytest_benchscale.backends.libvirt.networks import Networks
from pytest_benchscale.backends.libvirt.node import LibvirtNode
from pytest_benchscale.backends.libvirt.readiness import Guest
from pytest_benchscale.backends.libvirt.site import Site
from pytest_benchscale.transports.ssh.client import SshTransport
from pytest_benchscale.transports.ssh.login import HostKeys, Login

__all__ = ["SSH_PORT", "Ways"]

SSH_PORT = 22
_CONSOLE_SECONDS = 1.0  # between two looks at a console that only the daemon can read


class Ways:
    """Those of one lab; `scale` is how much longer than on a fast machine something may take there."""

    def __init__(
        self, site: Site, plan: LabPlan, networks: Networks, keys: LabKeys, scale: float
    ) -> None:
        self.scale = scale
        self._connection = site.connection
        self._site = site
        self._plan = plan
        self._networks = networks
        self._keys = keys

    def console(self, path: str) -> Console:
        """Return the console that is written to a file of the pool's."""
        if self._connection.is_local and os.access(path, os.R_OK):
            return Console(Path(path))
        return Console(partial(self._site.storage.piece, path), _CONSOLE_SECONDS)

    def transport(self, node: LibvirtNode) -> SshTransport:
        """Return a new way in."""
        name = node.plan.name
        login = Login(
            str(self._networks.management[name].ip),
            SSH_PORT,
            user="root",
            key=self._keys.login_file(name),
            host_keys=HostKeys(pinned=self._keys.of(name).host.encode()),
            timeout_scale=self.scale,
            through=self._connection.way,
        )
        return SshTransport(name, login, env=node.plan.env, fate=node.fate)

    def guest(self, node: LibvirtNode, transport: SshTransport | None = None) -> Guest:
        """Return what is waited for, reached by the node's own way in or by another one."""
        transport = transport or node.transport
        assert transport is not None  # noqa: S101  it was started
        return Guest(
            node.plan.name,
            str(self._networks.management[node.plan.name].ip),
            SSH_PORT,
            transport,
            node.death,
            node.console,
            tuple(one.address.ip for one in node.plan.interfaces),
            needs_cloud_init=node.plan.spec.cloud_init is not None and not node.is_set_up,
            through=self._connection.way,
        )
