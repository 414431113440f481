"""What cloud-init is told on the first boot of a guest: user-data, meta-data and network-config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_benchscale.backends.base import NodePlan
from pytest_benchscale.topology.addressing import IpInterface

__all__ = ["MANAGEMENT_DEVICE", "HostKey", "Management", "documents"]

MANAGEMENT_DEVICE = "mgmt0"


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key that the guest's sshd shows: both halves in OpenSSH's format."""

    private: str = field(repr=False)
    public: str


@dataclass(frozen=True, slots=True)
class Management:
    """The interface by which we reach the guest, named `mgmt0` there.

    Without `address` it asks by DHCP. `way_out` lets it have the default route; else it has none where
    the guest's network tools can refuse one (ifupdown cannot: its DHCP server must not offer one).
    """

    mac: str
    address: IpInterface | None = None
    way_out: bool = False


def documents(
    plan: NodePlan,
    *,
    instance_id: str,
    session_key: str,
    management: Management,
    host_key: HostKey | None = None,
) -> Mapping[str, bytes]:
    """Return the files of a guest's seed by name: user-data, meta-data, network-config.

    `session_key` is a public key that may log in as root. A new `instance_id` has the guest set up anew.

    Raises:
        LabError: what is declared cannot be told to cloud-init.
    """
    raise NotImplementedError
