"""From what shall act on a link to the steps of traffic control that make it so.

What a node sends is redirected to intermediate devices (ifb), one for each kind of treatment, whose root
queue delays, loses or limits it, and comes back from there to where it was: so a loss looks like one on
the way, not like a full queue of the sender's own. What a node shall not hear is dropped by a filter at
its end of the link.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pytest_benchscale.network.link import Link, LinkState, Side
from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    AddMirror,
    DeleteClassifier,
    DeleteDevice,
    DeleteFilter,
    Hook,
    Instruction,
    SetNetem,
    SetRate,
    Step,
)
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.conditions import Figures

__all__ = ["needs_netem", "queue", "removal", "steps"]

_LONGEST_NAME = 15  # of a network device
_MTU = 1514  # byte: a full frame

_SPARE, _SELECTED, _ALL = 1, 10, 1000  # priorities of filters on what the node sends
_DEAF = 1  # the first priority on what it receives
_PROGRAM = 4000  # instructions; the kernel takes 4,096

_PASS_ON, _ACCEPT, _DROP = 0xFFFFFFFF, 0, 2  # TC_ACT_UNSPEC (also: matched), TC_ACT_OK, TC_ACT_SHOT
_MATCHED, _OTHERS = _PASS_ON, 0  # the results of a program before a redirection

# Classic BPF, linux/bpf_common.h: load a word, half word or byte at an offset, compare, return.
_LOAD, _LOAD_HALF, _LOAD_BYTE, _EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_ICMPV6 = 58
_TYPE = 12  # offsets in an Ethernet frame
_SENDER_MAC = 6
_NEXT_HEADER = 20
_SENDER = {4: 26, 6: 22}
_RECEIVER = {4: 30, 6: 38}

_UNLIMITED = 1_250_000_000  # byte/s: what a queue without a rate is made for
_BUFFER_SECONDS = 0.1  # what a queue holds beyond what is under way
_MOST_PACKETS = 1_000_000


@dataclass
class _Objects:
    """Everything that is attached to one link: queues by device, filters by hook and priority."""

    queues: dict[str, SetNetem | SetRate] = field(default_factory=dict)
    filters: dict[tuple[Hook, int], AddFilter] = field(default_factory=dict)


def steps(link: Link, before: LinkState, after: LinkState) -> list[Step]:
    """Return what leads from one state of a link to another; empty when they are the same.

    New devices come first, then filters, then what nobody needs any more.
    """
    old, new = _objects(link, before), _objects(link, after)
    found: list[Step] = []
    for device, wanted in new.queues.items():
        if device not in old.queues:
            found.append(AddMirror(device))
        if old.queues.get(device) != wanted:
            found.append(wanted)
    if new.filters and not old.filters:
        found.append(AddClassifier(link.device))
    found += [wanted for key, wanted in new.filters.items() if old.filters.get(key) != wanted]
    if old.filters and not new.filters:
        found.append(DeleteClassifier(link.device))
    elif new.filters:
        gone = old.filters.keys() - new.filters.keys()
        found += [DeleteFilter(link.device, hook, priority) for hook, priority in sorted(gone)]
    found += [DeleteDevice(device) for device in old.queues if device not in new.queues]
    return found


def removal(link: Link, *states: LinkState) -> list[Step]:
    """Return what takes away all that any of these states has at a link; some of it may not be there."""
    objects = [_objects(link, state) for state in states]
    found: list[Step] = []
    if any(one.filters for one in objects):
        found.append(DeleteClassifier(link.device))
    return found + [
        DeleteDevice(name) for name in dict.fromkeys(q for o in objects for q in o.queues)
    ]


def needs_netem(figures: Figures) -> bool:
    """Return whether it takes `sch_netem` to apply the figures: all but a rate does."""
    return any(value for name, value in figures.figures().items() if name != "bandwidth_kbps")


def queue(device: str, figures: Figures) -> SetNetem | SetRate | None:
    """Return the root queue of a device that does what the figures say; None: nothing is to be done."""
    rate = round((figures.bandwidth_kbps or 0) * 1000 / 8)
    if needs_netem(figures):
        delay = (figures.latency_ms or 0) / 1000
        jitter = (figures.jitter_ms or 0) / 1000
        return SetNetem(
            device,
            delay=round(delay * 1e9),
            jitter=round(jitter * 1e9),
            normal=figures.jitter_distribution == "normal",
            loss=(figures.packet_loss_percent or 0) / 100,
            duplicate=(figures.duplicate_percent or 0) / 100,
            corrupt=(figures.corrupt_percent or 0) / 100,
            reorder=(figures.reorder_percent or 0) / 100,
            rate=rate,
            limit=_packets(rate or _UNLIMITED, delay + jitter),
        )
    if rate:
        burst = max(
            2 * _MTU, round(rate * 0.005)
        )  # a bucket for 5 ms: kernels' clocks tick in 1 to 10
        return SetRate(
            device, rate, burst, limit=burst + max(16 * _MTU, round(rate * _BUFFER_SECONDS))
        )
    return None


def _packets(rate: int, delay: float) -> int:
    """Return how many packets a queue must hold: what is under way at this rate, and a buffer."""
    under_way = rate * (delay + _BUFFER_SECONDS) / _MTU
    return max(100, min(_MOST_PACKETS, math.ceil(under_way)))


def _objects(link: Link, state: LinkState) -> _Objects:
    sent: Hook = "ingress" if link.side is Side.OUTSIDE else "egress"
    received: Hook = "egress" if link.side is Side.OUTSIDE else "ingress"
    objects = _Objects()

    def attach(hook: Hook, priority: int, program: list[Instruction], to: str | None) -> None:
        added = AddFilter(link.device, hook, priority, tuple(program), to)
        objects.filters[hook, priority] = added

    def treat(
        number: int, priority: int, towards: Iterable[IpAddress] | None, figures: Figures
    ) -> None:
        device = _mirror(link.device, number)
        wanted = queue(device, figures)
        if wanted is not None:
            objects.queues[device] = wanted
        hit, miss = (_MATCHED, _OTHERS) if wanted else (_ACCEPT, _PASS_ON)
        if towards is not None:
            program = [*_any_of(_receivers(towards), hit), _return(miss)]
        else:
            program = [_return(hit)]
        attach(sent, priority, program, device if wanted else None)

    for number, selection in enumerate(state.selections, start=1):
        treat(number, _SELECTED + number, selection.towards, selection.figures)
    if state.figures is not None and not state.figures.is_noop:
        treat(0, _ALL, None, state.figures)
    if objects.filters and link.spare:
        meant = [*_NEIGHBOURS, *_receivers(link.spare)]
        spared = [*_any_of(meant, _ACCEPT), _return(_PASS_ON)]
        attach(sent, _SPARE, spared, None)
    tests = [*_macs(state.deaf_to.macs), *_senders(state.deaf_to.addresses)]
    for number, program in enumerate(_programs(tests, _DROP)):
        attach(received, _DEAF + number, program, None)
    return objects


def _mirror(device: str, number: int) -> str:
    """Return the name of the n-th intermediate device of a device."""
    name = f"{device}-q{number}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"q{number}-{hashlib.sha256(device.encode()).hexdigest()[: _LONGEST_NAME - 3 - len(str(number))]}"


_Test = list[tuple[int, int, int]]
"""Loads (code, offset) and the value that each must have, for a packet to be meant."""

# How machines find each other on a network: who may not lose the way to a node must not lose these.
_NEIGHBOURS: tuple[_Test, ...] = (
    [(_LOAD_HALF, _TYPE, _ARP)],
    *(
        [(_LOAD_HALF, _TYPE, _IPV6), (_LOAD_BYTE, _NEXT_HEADER, _ICMPV6), (_LOAD_BYTE, 54, message)]
        for message in (135, 136)  # solicitation and advertisement, RFC 4861
    ),
)


def _macs(macs: Iterable[str]) -> Iterator[_Test]:
    for mac in sorted(macs):
        packed = bytes.fromhex(mac.replace(":", ""))
        head, tail = int.from_bytes(packed[:4]), int.from_bytes(packed[4:])
        yield [(_LOAD, _SENDER_MAC, head), (_LOAD_HALF, _SENDER_MAC + 4, tail)]


def _senders(addresses: Iterable[IpAddress]) -> Iterator[_Test]:
    return (_address(address, _SENDER) for address in _in_order(addresses))


def _receivers(addresses: Iterable[IpAddress]) -> Iterator[_Test]:
    return (_address(address, _RECEIVER) for address in _in_order(addresses))


def _in_order(addresses: Iterable[IpAddress]) -> list[IpAddress]:
    return sorted(addresses, key=lambda address: (address.version, int(address)))


def _address(address: IpAddress, offsets: dict[int, int]) -> _Test:
    protocol = _IPV4 if address.version == 4 else _IPV6
    offset, packed = offsets[address.version], address.packed
    words = [int.from_bytes(packed[i : i + 4]) for i in range(0, len(packed), 4)]
    return [
        (_LOAD_HALF, _TYPE, protocol),
        *((_LOAD, offset + 4 * i, word) for i, word in enumerate(words)),
    ]


def _any_of(tests: Iterable[_Test], verdict: int) -> Iterator[Instruction]:
    """Return the verdict for a packet that passes any of the tests; go on behind for others."""
    for test in tests:
        rest = 2 * len(
            test
        )  # instructions of this test that are still to come, its return not counted
        for code, offset, value in test:
            rest -= 2
            yield (code, 0, 0, offset)
            yield (_EQUAL, 0, rest + 1, value)
        yield _return(verdict)


def _programs(tests: Iterable[_Test], verdict: int) -> Iterator[list[Instruction]]:
    """Return programs that drop what passes any of the tests, as few as the kernel's limit allows."""
    program: list[Instruction] = []
    for test in tests:
        block = list(_any_of([test], verdict))
        if len(program) + len(block) > _PROGRAM:
            yield [*program, _return(_PASS_ON)]
            program = []
        program += block
    if program:
        yield [*program, _return(_PASS_ON)]


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)
