"""The networks of a lab, and the one by which we reach its guests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network, ip_address, ip_network
from typing import Any, NamedTuple
from xml.etree.ElementTree import fromstring

import libvirt
from anyio import to_thread

from pytest_benchscale.backends.base import LabPlan, NetworkInfo, NetworkPlan
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.failures import GONE, explain
from pytest_benchscale.backends.libvirt.naming import (
    LAB,
    Names,
    mac_of_bridge,
    mac_of_management,
)
from pytest_benchscale.backends.libvirt.network_xml import (
    BridgeNetwork,
    Reservation,
    labels_of,
    network_xml,
)
from pytest_benchscale.backends.libvirt.remote import routes_at
from pytest_benchscale.errors import LabError, SubnetTaken
from pytest_benchscale.network import kernel_routes
from pytest_benchscale.topology.addressing import IpAddress, IpNetwork

__all__ = ["Holding", "Networks", "in_use"]

# RFC 2544: for tests between devices, so that neither the internet nor a site has it.
_MANAGEMENT_POOL = IPv4Network("198.18.0.0/15")
_ATTEMPTS = 64
_SMALLEST_PREFIX = 24
_IN_USE = "already in use"


class Holding(NamedTuple):
    """A subnet and the words for who has it."""

    subnet: IpNetwork
    holder: str


class Networks:
    """Makes and removes the networks of one lab."""

    def __init__(self, connection: Connection, plan: LabPlan, names: Names) -> None:
        self._connection = connection
        self._plan = plan
        self._names = names
        self.management: Mapping[str, IPv4Interface] = {}
        """The address of each node on the management network."""
        self.management_host: IpAddress | None = None
        """That of the daemon's machine there."""

    async def create(self, plan: NetworkPlan) -> NetworkInfo:
        """Create a network of the topology's; one that only machines are on that are there is there, too.

        Raises:
            SubnetTaken: somebody else has its subnet.
            LabError: it cannot be made.
        """
        if self._is_there(plan.name):
            return NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet)
        network = self._of(plan)
        if network.host is not None:
            for subnet, holder in await in_use(self._connection):
                if subnet.version == plan.subnet.version and subnet.overlaps(plan.subnet):
                    raise SubnetTaken(plan.name, plan.subnet, holder)
        try:
            await self._create(network)
        except libvirt.libvirtError as error:
            if _IN_USE in str(error):  # somebody was faster
                raise SubnetTaken(plan.name, plan.subnet, str(error)) from error
            what = f"network {plan.name!r} could not be created"
            raise explain(error, what, "network") from error
        return NetworkInfo(plan.name, plan.subnet, plan.gateway, plan.internet, network.bridge)

    async def create_management(self, *, nat: bool) -> None:
        """Create the network by which we reach the guests, where there is room for it.

        Raises:
            LabError: it cannot be made.
        """
        taken = [subnet for subnet, _ in await in_use(self._connection)]
        taken += [network.subnet for network in self._plan.networks]
        last: libvirt.libvirtError | None = None
        for subnet in self._candidates(taken):
            network = self._management(subnet, nat=nat)
            try:
                await self._create(network)
            except libvirt.libvirtError as error:
                last = error
                if _IN_USE not in str(error):
                    break
            else:
                return
        what = "the network for managing the guests could not be created"
        if last is not None:
            raise explain(last, what, "network") from last
        raise LabError(
            f"{what}: all of {_MANAGEMENT_POOL} is in use",
            step="network",
            resolution="remove networks that nobody needs; `virsh net-list` shows libvirt's",
        )

    def noted(self) -> dict[str, Any]:
        """Return what `take_over` needs, as JSON has it."""
        return {
            "host": None if self.management_host is None else str(self.management_host),
            "nodes": {name: str(address) for name, address in self.management.items()},
        }

    def take_over(self, noted: Mapping[str, Any]) -> Mapping[str, str]:
        """Use the networks that another process has made; return what there has to be, in words."""
        self.management_host = ip_address(noted["host"]) if noted["host"] else None
        self.management = {name: IPv4Interface(address) for name, address in noted["nodes"].items()}
        wanted = {
            self._names.network(network.name): f"network {network.name!r}"
            for network in self._plan.networks
            if not self._is_there(network.name)
        }
        if self.management_host is not None:
            wanted[self._names.management] = "the network for managing the guests"
        return wanted

    async def delete(self, name: str) -> None:
        """Remove a network of the topology's, if it is there.

        Raises:
            LabError: it cannot be removed.
        """
        if name in self._names.networks:
            await self._destroy(self._names.network(name))

    async def delete_all(self) -> None:
        """Remove all networks of the lab."""
        for name in self._names.networks:
            await self._destroy(self._names.network(name))
        await self._destroy(self._names.management)

    def _is_there(self, name: str) -> bool:
        specs = [
            node.spec
            for node in self._plan.nodes
            if any(interface.network == name for interface in node.interfaces)
        ]
        return bool(specs) and all(spec.existing for spec in specs)

    def _of(self, plan: NetworkPlan) -> BridgeNetwork:
        interfaces = [
            (node, interface)
            for node in self._plan.nodes
            for interface in node.interfaces
            if interface.network == plan.name
        ]
        of_nodes = {interface.address.ip for _, interface in interfaces}
        # A node that has the gateway's address is the router. And a machine with an IPv6 address would tell
        # the nodes that it is one.
        is_ours = plan.gateway not in of_nodes and (plan.internet or plan.subnet.version == 4)
        return BridgeNetwork(
            self._names.network(plan.name),
            self._names.bridge(plan.name),
            mac_of_bridge(plan.name),
            plan.subnet,
            plan.gateway if is_ours else None,
            plan.internet,
            self._labels(),
            [
                Reservation(interface.mac, interface.address.ip, node.hostname)
                for node, interface in interfaces
            ],
        )

    def _management(self, subnet: IPv4Network, *, nat: bool) -> BridgeNetwork:
        hosts = subnet.hosts()
        self.management_host = next(hosts)
        made = [node.name for node in self._plan.nodes if node.spec.existing is None]
        self.management = {
            name: IPv4Interface((address, subnet.prefixlen))
            for name, address in zip(made, hosts, strict=False)
        }
        return BridgeNetwork(
            self._names.management,
            self._names.management_bridge,
            mac_of_bridge("management"),
            subnet,
            self.management_host,
            nat,
            self._labels(),
            [
                Reservation(mac_of_management(name), interface.ip)
                for name, interface in self.management.items()
            ],
        )

    def _candidates(self, taken: Sequence[IpNetwork]) -> Iterable[IPv4Network]:
        """Yield the first free subnets: a lab gets the same one again, which its prepared guests know."""
        bits = (len(self._plan.nodes) + 3).bit_length()  # the nodes, this machine, two reserved
        prefix = min(_SMALLEST_PREFIX, 32 - bits)
        free = (
            subnet
            for subnet in _MANAGEMENT_POOL.subnets(new_prefix=prefix)
            if not any(other.version == 4 and subnet.overlaps(other) for other in taken)
        )
        return (subnet for subnet, _ in zip(free, range(_ATTEMPTS), strict=False))

    def _labels(self) -> Mapping[str, str]:
        return {**self._plan.labels, LAB: self._plan.lab_id}

    async def _create(self, network: BridgeNetwork) -> None:
        await self._connection.call(self._connection.raw.networkCreateXML, network_xml(network))

    async def _destroy(self, name: str) -> None:
        def destroy() -> None:
            try:
                self._connection.raw.networkLookupByName(name).destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in GONE:
                    raise

        try:
            await self._connection.call(destroy)
        except libvirt.libvirtError as error:
            raise explain(error, f"network {name} could not be removed", "network") from error


async def in_use(connection: Connection) -> list[Holding]:
    """Return the subnets of the daemon's networks, and of its machine's routes where these can be known.

    Raises:
        LabError: the daemon does not say.
    """
    try:
        described = await connection.call(_descriptions, connection)
    except libvirt.libvirtError as error:
        raise explain(error, "the daemon's networks cannot be listed", "network") from error
    holdings: list[Holding] = []
    bridges: set[str] = set()
    for description in described:
        found, bridge = _of_network(description)
        holdings += found
        bridges.add(bridge)
    routes: list[kernel_routes.KernelRoute] = []
    if connection.is_local:
        routes = await to_thread.run_sync(_routes)
    elif connection.way is not None:
        routes = await routes_at(connection.way)
    where = "this machine" if connection.is_local else "the daemon's machine"
    holdings += [
        Holding(route.destination, f"{where} has a route to it, through {route.device}")
        for route in routes
        if route.destination.prefixlen and route.device not in bridges
    ]
    return holdings


def _descriptions(connection: Connection) -> list[str]:
    found = []
    for network in connection.raw.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
        try:
            found.append(str(network.XMLDesc(0)))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:  # it was removed at this moment
                raise
    return found


def _of_network(description: str) -> tuple[list[Holding], str]:
    root = fromstring(description)  # noqa: S314  the daemon's own words
    holder = f"network {root.findtext('name')!r} of the libvirt daemon has it"
    labels = labels_of(root)
    if lab := labels.get(LAB):
        holder = f"lab {lab} of process {labels.get('benchscale.pid', '?')} has it"
    bridge = root.find("bridge")
    holdings = []
    for ip in root.iterfind("ip"):
        width = ip.get("prefix") or ip.get("netmask")
        address = ip.get("address")
        if width and address:
            holdings.append(Holding(ip_network(f"{address}/{width}", strict=False), holder))
    return holdings, "" if bridge is None else bridge.get("name", "")


def _routes() -> list[kernel_routes.KernelRoute]:
    try:
        return kernel_routes.read()
    except OSError:
        return []  # not Linux
