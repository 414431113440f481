"""Nodes as Podman containers: the backend for Docker, over Podman's Docker-compatible service.

What Podman does otherwise is in its dialect; what is here is where its service is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import anyio
from anyio import to_thread

from pytest_benchscale.backends.base import LabPlan, NetworkInfo, NetworkPlan, OwnedThing
from pytest_benchscale.backends.docker import connection
from pytest_benchscale.backends.docker.backend import DockerBackend
from pytest_benchscale.backends.docker.diagnosis import PODMAN as PRODUCT
from pytest_benchscale.backends.docker.dialect import PODMAN, Dialect
from pytest_benchscale.backends.docker.endpoints import Endpoint
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.backends.docker.shared_machine import shares_this_machine
from pytest_benchscale.backends.podman_firewall import (
    Exemptions,
    can_exempt,
    labs_with_rules,
    remove_rules,
)
from pytest_benchscale.backends.podman_service import NotStarted, PodmanService
from pytest_benchscale.errors import BackendUnavailable, LabError, NotSupported

__all__ = ["PodmanBackend", "filters_bridges", "find_podman"]

_BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_VANISHED = (
    "no such network interface"  # Go's `net.Interfaces`, which lists first and then looks at each
)
_TRIES, _PAUSE = 8, 0.05
_STORE = ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "XDG_DATA_HOME", "XDG_CONFIG_HOME")

_service = PodmanService()


class Firewall(Enum):
    """What a firewall does to packets on the bridges of internal networks."""

    ELSEWHERE = "nothing: bridges do not go through it, or it is not ours to see"
    OPENED = "it drops them, and we may let them pass"
    CLOSED = "it drops them"


class PodmanBackend(DockerBackend):
    """Nodes as containers of Podman, of root's or of an ordinary user's."""

    name: ClassVar[str] = "podman"
    dialect: ClassVar[Dialect] = PODMAN

    def __init__(self) -> None:
        super().__init__()
        self._uses_service = False
        self._exemptions: Exemptions | None = None
        self._firewall = Firewall.ELSEWHERE

    async def connect(self) -> Engine:
        """Connect to the service that there is, else to one that is started for us."""
        self._endpoint = find_podman() or await self._own_service()
        return await connection.connect(self.name, self._endpoint, PRODUCT)

    async def open(self, plan: LabPlan) -> None:
        """Do the same as for Docker; let packets pass where the firewall would drop or change them."""
        await super().open(plan)
        if self._firewall is Firewall.ELSEWHERE:
            return
        routers = [node.name for node in plan.nodes if node.forwards]
        if self._firewall is Firewall.CLOSED:
            if not routers:
                return
            raise NotSupported(
                self.name,
                "nodes that are routers, on this machine",
                details=f"node {routers[0]!r} is one; bridged packets go through the firewall here "
                "(net.bridge.bridge-nf-call-iptables is 1), and Podman's rules let no network see the "
                "addresses of another",
                resolution="install iptables, or `sudo sysctl net.bridge.bridge-nf-call-iptables=0`, or use "
                "the backend 'docker', or a rootless Podman",
            )
        subnets = [network.subnet for network in plan.networks]
        self._exemptions = Exemptions(plan.lab_id, subnets, routed=bool(routers))
        if self._is_kept:
            return  # who had the lab has added them
        with _told("open"):
            await to_thread.run_sync(self._exemptions.add)

    async def create_network(self, plan: NetworkPlan) -> NetworkInfo:
        """Do the same as for Docker; again when somebody's interface vanished while Podman looked at all."""
        for _ in range(_TRIES):
            try:
                return await super().create_network(plan)
            except LabError as error:
                if _VANISHED not in error.brief:
                    raise
            await anyio.sleep(_PAUSE)
        return await super().create_network(plan)

    async def can_be_internal(self, engine: Engine, info: Mapping[str, Any]) -> bool:
        """Return whether packets pass on internal networks.

        Where bridged packets go through the firewall, something must let them pass if it drops by default, as
        Docker's does. Docker does so for its networks, Podman only for those not internal, and we where
        we may. A rootless Podman has a firewall of its own.
        """
        self._firewall = await to_thread.run_sync(_firewall_of, engine, info)
        return self._firewall is not Firewall.CLOSED

    def place(self) -> Mapping[str, str]:
        """Return what leads to the same service; a service of ours ends with us, so then to its store."""
        if self._endpoint is None:
            return {}
        store = {name: os.environ[name] for name in _STORE if name in os.environ}
        if self._uses_service:
            return {"CONTAINER_HOST": "", **store}
        return {"CONTAINER_HOST": self._endpoint.url}

    async def delete_owned(self, owner: str, lab_id: str) -> None:
        """Do the same as for Docker; take out the lab's rules in the firewall of this machine."""
        try:
            await super().delete_owned(owner, lab_id)
        finally:
            if can_exempt():
                with _told("gc"):
                    await to_thread.run_sync(remove_rules, lab_id)

    async def list_owned(self, owner: str | None) -> Sequence[OwnedThing]:
        """Do the same as for Docker; of rules in the firewall only the lab is known, not the run."""
        things = await super().list_owned(owner)
        if owner is not None or not can_exempt():
            return things
        with _told("list"):
            labs = await to_thread.run_sync(labs_with_rules)
        return [*things, *(OwnedThing("firewall rule", f"of {lab}", lab) for lab in set(labs))]

    async def close(self) -> None:
        """Do the same as for Docker; a service of ours ends with its last lab."""
        is_kept = self._is_kept
        try:
            await super().close()
        finally:
            try:
                if self._exemptions is not None and not is_kept:
                    with _told("close"):
                        await to_thread.run_sync(self._exemptions.remove)
            finally:
                if self._uses_service:
                    self._uses_service = False
                    await to_thread.run_sync(_service.release)

    async def _own_service(self) -> Endpoint:
        if not self._uses_service:
            try:
                path = await to_thread.run_sync(_service.acquire)
            except NotStarted as error:
                raise BackendUnavailable(
                    self.name, f"no service answers, and {error}", resolution=_advice()
                ) from error
            self._uses_service, self._path = True, path
        return Endpoint(f"unix://{self._path}", "started for this run")


@contextmanager
def _told(step: str) -> Iterator[None]:
    """Have the failure of a block told as ours."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        details = getattr(error, "stderr", None) or str(error)
        raise LabError(
            "the rules in the firewall cannot be looked at or changed", step=step, details=details
        ) from error


def find_podman(environment: Mapping[str, str] = os.environ) -> Endpoint | None:
    """Return where Podman's service is: where CONTAINER_HOST says, else where it answers."""
    if host := environment.get("CONTAINER_HOST"):
        return Endpoint(host, "CONTAINER_HOST")
    own = environment.get("XDG_RUNTIME_DIR")
    candidates = [Path(own) / "podman/podman.sock"] if own else []
    if os.geteuid() == 0:
        candidates.append(Path("/run/podman/podman.sock"))
    for path in candidates:
        if _answers(path):
            return Endpoint(f"unix://{path}", "the default")
    return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def _is_rootless(info: Mapping[str, Any]) -> bool:
    options = info.get("SecurityOptions") or ()
    return bool(info.get("Rootless")) or any("rootless" in option for option in options)


def _firewall_of(engine: Engine, info: Mapping[str, Any]) -> Firewall:
    """Find out about the firewall of a service that may be on this machine."""
    if not engine.address.is_local or _is_rootless(info) or not filters_bridges():
        return Firewall.ELSEWHERE
    may = can_exempt() and shares_this_machine(engine.address)
    return Firewall.OPENED if may else Firewall.CLOSED


def filters_bridges() -> bool:
    """Return whether what passes a bridge of this machine goes through its firewall."""
    try:
        return _BRIDGE_FILTER.read_text().strip() == "1"
    except OSError:  # the kernel's module is not loaded, or this is not Linux
        return False


def _advice(platform: str = sys.platform) -> str:
    if platform.startswith("linux"):
        return PRODUCT.start
    return "start its machine (`podman machine start`) and name the socket that it tells in CONTAINER_HOST"
