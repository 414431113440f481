"""What differs between the daemons that speak Docker's API, in one place."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DOCKER", "PODMAN", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a daemon wants to be spoken to; the defaults are Docker's.

    `sorts_networks`: what a container joins before its start becomes eth0, eth1, ... by rules that are known
    (`network.joins_in_order`). `log_options` bound the log of a container, which would else fill the disk.
    `endpoint_mac` is the first version of the API in which each attachment has a MAC address of its own.
    `routes_internally`: packets with foreign addresses pass on an internal network. `added_rights` are the
    capabilities of Linux that Docker grants to every container and this daemon does not. `forgets_bridges`:
    one may be left of a network that is removed.
    """

    log_driver: str = "json-file"
    log_options: tuple[tuple[str, str], ...] = (("max-size", "8m"), ("max-file", "2"))
    died: frozenset[str] = frozenset({"die"})
    out_of_memory: frozenset[str] = frozenset({"oom"})
    sorts_networks: bool = True
    bridge_prefix: str | None = "br-"  # of the Linux bridge, before 12 digits of the network's id
    endpoint_mac: tuple[int, ...] = (1, 44)
    routes_internally: bool = False
    added_rights: tuple[str, ...] = ()
    forgets_bridges: bool = False


DOCKER = Dialect()

PODMAN = Dialect(
    log_driver="k8s-file",
    log_options=(("max-size", "16m"),),
    died=frozenset({"died", "die"}),
    sorts_networks=False,
    bridge_prefix=None,
    endpoint_mac=(1, 0),
    routes_internally=True,
    added_rights=("AUDIT_WRITE", "MKNOD", "NET_RAW"),
    forgets_bridges=True,
)
