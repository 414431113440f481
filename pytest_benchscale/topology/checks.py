"""What only shows when the parts of a topology are seen together: names, references, addresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points

from pytest_benchscale.errors import Problem, TopologyError
from pytest_benchscale.topology.addressing import host_bounds
from pytest_benchscale.topology.conditions import Conditions
from pytest_benchscale.topology.fields import IpAddress, IpNetwork
from pytest_benchscale.topology.model import Attachment, Network, NodeSpec, Topology
from pytest_benchscale.topology.presets import BUILT_IN

__all__ = ["KEY", "Finding", "Loc", "Unsure", "check_all", "did_you_mean", "find"]

Loc = tuple[str | int, ...]

# As the last step of a location: the key itself is meant, not its value. Pydantic uses the same.
KEY = "[key]"

_AUTO = "auto"
_BACKENDS = frozenset({"local", "docker", "podman", "libvirt", "ssh", "lxd"})
_ENTRY_POINTS = "pytest_benchscale.backends"
_LONGEST_GUESSED = 40
_LONGEST_LIST = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at `loc` in the model. `{first}` in the message stands for `first`."""

    loc: Loc
    message: str
    first: Loc = ()


@dataclass(frozen=True, slots=True)
class Unsure:
    """What was lost since parts of the file were unusable: no complaint is built on its absence."""

    networks: bool = False
    subnets: bool = False
    nodes: bool = False
    presets: bool = False
    damaged_nodes: frozenset[int] = frozenset()


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown word: a guess, or what there is."""
    guess = get_close_matches(word, known, 1) if len(word) <= _LONGEST_GUESSED else []
    if guess:
        return f"; did you mean {guess[0]}?"
    return f"; there is {', '.join(known)}" if 0 < len(known) <= _LONGEST_LIST else ""


def check_all(topology: Topology) -> None:
    """Check a topology that was made in Python.

    Raises:
        TopologyError: with all that is wrong.
    """
    problems = [
        Problem(None, 0, 0, _shown(item.loc), item.message.replace("{first}", _shown(item.first)))
        for item in find(topology, Unsure(), None)
    ]
    if problems:
        raise TopologyError(problems)


def _shown(loc: Loc) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc if step != KEY)
    return "".join(steps).removeprefix(".")


def find(topology: Topology, unsure: Unsure, backends: Collection[str] | None) -> Iterator[Finding]:
    """Yield what is wrong. `backends` are the names of backends; None: ours and the installed ones."""
    yield from _duplicate_names(topology)
    yield from _subnets(topology, unsure)
    yield from _attachments(topology, unsure)
    yield from _addresses(topology, unsure)
    yield from _presets(topology, unsure)
    yield from _backends(topology, backends)
    yield from _dependencies(topology, unsure)
    yield from _existing(topology, unsure)


def _duplicate_names(topology: Topology) -> Iterator[Finding]:
    network_names = [network.name for network in topology.networks]
    node_names = [node.name for node in topology.nodes]
    for part, names, keys in (
        ("networks", network_names, network_names),
        # Resolvers do not tell upper from lower case.
        ("nodes", node_names, [name.lower() for name in node_names]),
    ):
        first: dict[str, int] = {}
        for index, (name, key) in enumerate(zip(names, keys, strict=True)):
            if (earlier := first.setdefault(key, index)) == index:
                continue
            message = f"duplicate name {_short(name)!r}; {{first}} has it already"
            if name != names[earlier]:
                message += ", and host names do not tell upper from lower case"
            yield Finding((part, index, "name"), message, (part, earlier))


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."


def _subnets(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    """Gateways outside their subnet, subnets that overlap or are too small."""
    sizes = Counter(attachment.name for node in topology.nodes for attachment in node.networks)
    routers = {
        (attachment.name, attachment.address)
        for node in topology.nodes
        for attachment in node.networks
    }
    yield from _overlaps(topology.networks)
    for index, network in enumerate(topology.networks):
        at: Loc = ("networks", index)
        subnet, gateway = network.subnet, network.gateway
        nodes = sizes.pop(
            network.name, 0
        )  # of two networks of one name, the nodes are on the first
        if subnet is None:
            if gateway is not None and not unsure.subnets:
                yield Finding((*at, "gateway"), "needs the network's subnet to be declared too")
            continue
        if gateway is not None and (reason := _not_a_host(gateway, subnet)):
            yield Finding((*at, "gateway"), reason)
            gateway = None
        low, high = host_bounds(subnet)
        room = high - low + 1
        apart = (network.name, gateway) not in routers if gateway else network.internet
        if nodes + apart > room:
            needed = f"{nodes} node{'s' * (nodes > 1)}{' and the gateway' * apart}"
            usable = f"{room} usable address{'es' * (room > 1)}"
            message = f"'{subnet}' is too small: it has {usable} for {needed}"
            yield Finding((*at, "subnet"), message)


def _overlaps(networks: Sequence[Network]) -> Iterator[Finding]:
    placed = sorted(
        (subnet.version, int(subnet.network_address), int(subnet.broadcast_address), index)
        for index, network in enumerate(networks)
        if (subnet := network.subnet) is not None
    )
    version, reach, holder = 0, -1, -1  # the subnet seen so far that reaches farthest
    for candidate, low, high, index in placed:
        if candidate == version and low <= reach:
            first, second = sorted((holder, index))
            message = (
                f"'{networks[second].subnet}' overlaps '{networks[first].subnet}' of {{first}}; "
                "two networks cannot share addresses"
            )
            yield Finding(("networks", second, "subnet"), message, ("networks", first))
        if candidate != version or high > reach:
            version, reach, holder = candidate, high, index


def _not_a_host(address: IpAddress, subnet: IpNetwork) -> str:
    """Return why a node or gateway cannot have an address, empty: it can."""
    if address.version != subnet.version or address not in subnet:
        return f"'{address}' is outside the subnet {subnet}"
    low, high = host_bounds(subnet)
    if int(address) < low:
        return f"'{address}' is the address of the subnet {subnet} itself"
    return f"'{address}' is the broadcast address of {subnet}" if int(address) > high else ""


def _each_attachment(topology: Topology) -> Iterator[tuple[Loc, NodeSpec, Attachment]]:
    for index, node in enumerate(topology.nodes):
        for position, attachment in enumerate(node.networks):
            yield ("nodes", index, "networks", position), node, attachment


def _attachments(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    """Networks that do not exist, or on which a node is twice."""
    known = [network.name for network in topology.networks]
    names = frozenset(known)
    seen: dict[tuple[int | str, str], Loc] = {}
    for loc, _, attachment in _each_attachment(topology):
        name = attachment.name
        if name not in names:
            if not unsure.networks:
                message = f"unknown network {_short(name)!r}{did_you_mean(name, known)}"
                yield Finding((*loc, "name"), message)
        elif (first := seen.setdefault((loc[1], name), loc)) != loc:
            yield Finding((*loc, "name"), f"the node is on {name!r} already by {{first}}", first)


def _addresses(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    """Addresses outside their subnet, or of two nodes."""
    subnets = {network.name: network.subnet for network in topology.networks}
    seen: dict[tuple[str, IpAddress], Loc] = {}
    for loc, _, attachment in _each_attachment(topology):
        name, address = attachment.name, attachment.address
        if address is None or name not in subnets:
            continue
        at = (*loc, "address")
        subnet = subnets[name]
        if subnet is None:
            if not unsure.subnets:
                message = f"'{address}' needs the subnet of network {name!r} to be declared"
                yield Finding(at, message)
        elif reason := _not_a_host(address, subnet):
            yield Finding(at, reason)
        elif (first := seen.setdefault((name, address), at)) != at:
            message = f"duplicate address '{address}'; {{first}} has it already"
            yield Finding(at, message, first[:2])


def _presets(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    known = {**BUILT_IN, **topology.presets}
    for loc, name in _each_preset(topology):
        if name is not None and name not in known and not unsure.presets:
            guess = did_you_mean(name, known)
            yield Finding((*loc, "preset"), f"unknown preset {_short(name)!r}{guess}")


def _each_preset(topology: Topology) -> Iterator[tuple[Loc, str | None]]:
    def of(conditions: Conditions | None) -> str | None:
        return conditions.preset if conditions else None

    for index, network in enumerate(topology.networks):
        yield ("networks", index), network.preset
        yield ("networks", index, "conditions"), of(network.conditions)
    for index, node in enumerate(topology.nodes):
        yield ("nodes", index, "network_conditions"), of(node.network_conditions)
    for loc, _, attachment in _each_attachment(topology):
        yield (*loc, "network_conditions"), of(attachment.network_conditions)


def _backends(topology: Topology, backends: Collection[str] | None) -> Iterator[Finding]:
    for loc, name in _each_backend(topology):
        if name == _AUTO and loc == ("backend",):
            continue
        known = _BACKENDS if backends is None else backends
        if name not in known and (backends is not None or name not in _installed()):
            names = sorted({*known, *(_installed() if backends is None else ())})
            hint = "; leave it out" if name == _AUTO else did_you_mean(name, names)
            yield Finding(loc, f"unknown backend {_short(name)!r}{hint}")


def _each_backend(topology: Topology) -> Iterator[tuple[Loc, str]]:
    if topology.backend is not None:
        yield ("backend",), topology.backend
    for index, node in enumerate(topology.nodes):
        if node.backend is not None:
            yield ("nodes", index, "backend"), node.backend
        if isinstance(node.image, dict):
            for name in node.image:
                yield ("nodes", index, "image", name, KEY), name


@cache
def _installed() -> frozenset[str]:
    """Return the names of the backends that installed packages provide; none is imported."""
    return frozenset(entry_points(group=_ENTRY_POINTS).names)


def _dependencies(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    names = [node.name for node in topology.nodes]
    index_of = {name: index for index, name in reversed(list(enumerate(names)))}
    edges: list[list[tuple[int, Loc]]] = []
    for index, node in enumerate(topology.nodes):
        targets = []
        for position, name in enumerate(node.depends_on):
            loc: Loc = ("nodes", index, "depends_on", position)
            if name not in index_of:
                if not unsure.nodes:
                    others = [other for other in names if other != node.name]
                    guess = did_you_mean(name, others)
                    yield Finding(loc, f"unknown node {_short(name)!r}{guess}")
            elif name == node.name:
                yield Finding(loc, f"the node {_short(name)!r} depends on itself")
            else:
                targets.append((index_of[name], loc))
        edges.append(targets)
    for cycle, loc in _cycles(edges):
        path = [_short(names[index]) for index in (*cycle, cycle[0])]
        if len(path) > _LONGEST_LIST:
            path[_LONGEST_LIST // 2 : -_LONGEST_LIST // 2] = ["..."]
        yield Finding(loc, f"dependency cycle: {' -> '.join(path)}")


def _cycles(edges: Sequence[Sequence[tuple[int, Loc]]]) -> Iterator[tuple[list[int], Loc]]:
    """Yield cycles of a graph, each with the location of the edge that closes it.

    A cycle of nodes that were all part of earlier ones is not named again.
    """
    named: set[int] = set()
    done: set[int] = set()
    for root in range(len(edges)):
        path: dict[int, int] = {}  # the nodes on the way down, each with its depth
        stack: list[tuple[int, Iterator[tuple[int, Loc]]]] = []
        if root not in done:
            path[root] = 0
            stack.append((root, iter(edges[root])))
        while stack:
            node, targets = stack[-1]
            target, loc = next(targets, (-1, ()))
            if target < 0:
                stack.pop()
                del path[node]
                done.add(node)
            elif target in path:
                cycle = list(path)[path[target] :]
                if not named.issuperset(cycle):
                    named.update(cycle)
                    yield cycle, loc
            elif target not in done:
                path[target] = len(path)
                stack.append((target, iter(edges[target])))


def _existing(topology: Topology, unsure: Unsure) -> Iterator[Finding]:
    """Machines that are there already: what they need, and what makes no sense with them."""
    seen: dict[tuple[str | None, str], int] = {}
    for index, node in enumerate(topology.nodes):
        if index in unsure.damaged_nodes:
            continue
        at: Loc = ("nodes", index)
        backend = node.backend or topology.backend
        if backend == "ssh" and node.address is None:
            yield Finding(at, "the ssh backend needs the machine's `address`")
        if node.address is not None and node.existing is None and backend != "ssh":
            message = (
                "is that of an `existing` machine, which is not named; an address on a network is "
                f"written networks: [{{name: ..., address: {node.address}}}]"
            )
            yield Finding((*at, "address"), message)
        if node.existing is None:
            continue
        if node.cloud_init is not None:
            message = "sets up a new machine, and an `existing` one is used as it is"
            yield Finding((*at, "cloud_init"), message)
        first = seen.setdefault((backend, node.existing), index)
        if first != index:
            message = f"the machine {_short(node.existing)!r} is used by {{first}} already"
            yield Finding((*at, "existing"), message, ("nodes", first))
