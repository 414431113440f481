"""What acts on a link, as steps: run programs as the kernel would, and follow states to the next."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from pytest_benchscale.network.link import NOTHING, Link, LinkState, Selection, Senders, Side
from pytest_benchscale.network.render import queue, steps
from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    AddMirror,
    DeleteClassifier,
    DeleteDevice,
    DeleteFilter,
    SetNetem,
    SetRate,
    Step,
    from_json,
    to_json,
)
from pytest_benchscale.network.tc_text import batches
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.conditions import Figures

ACCEPTED, DROPPED, UNDECIDED = 0, 2, 0xFFFFFFFF
MACS = ["02:00:00:00:00:01", "f6:ff:ff:ff:ff:fe"]
FOUR, OTHER_FOUR = ip_address("10.0.0.7"), ip_address("10.0.0.8")
SIX, OTHER_SIX = ip_address("fd42::7"), ip_address("fd42::8")
SLOW = Figures(latency_ms=50)
LIMITED = Figures(bandwidth_kbps=10_000)


class NoConduit:
    async def change(self, steps: object) -> None:
        raise AssertionError


def link(
    side: Side = Side.OUTSIDE, device: str = "v1", spare: frozenset[IpAddress] = frozenset()
) -> Link:
    return Link(device, side, NoConduit(), spare)


def frame(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    mac: str = "02:11:11:11:11:11",
) -> bytes:
    ethernet = bytes(6) + bytes.fromhex(mac.replace(":", ""))
    if source.version == 4:
        return ethernet + b"\x08\x00" + bytes(12) + source.packed + destination.packed
    return ethernet + b"\x86\xdd" + bytes(8) + source.packed + destination.packed


def run(program: tuple[tuple[int, int, int, int], ...], packet: bytes) -> int:
    """Run a program of classic BPF; loading beyond the packet ends it with 0, as in the kernel."""
    at, value = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code in {0x20, 0x28}:
            size = 4 if code == 0x20 else 2
            if operand + size > len(packet):
                return 0
            value = int.from_bytes(packet[operand : operand + size])
        elif code == 0x15:
            assert if_true < 256
            assert if_false < 256
            at += if_true if value == operand else if_false
        else:
            assert code == 0x06
            return operand


def verdict(made: list[Step], hook: str, packet: bytes) -> str | int:
    """Return the device to which a packet is redirected, or what becomes of it."""
    filters = sorted(
        (one for one in made if isinstance(one, AddFilter) and one.hook == hook),
        key=lambda one: one.priority,
    )
    for one in filters:
        result = run(one.program, packet)
        if one.redirect is not None:
            if result == UNDECIDED:  # of a redirecting filter: it matches
                return one.redirect
        elif result != UNDECIDED:
            return result
    return UNDECIDED


@pytest.mark.parametrize(
    ("side", "sent", "received"),
    [(Side.OUTSIDE, "ingress", "egress"), (Side.INSIDE, "egress", "ingress")],
)
def test_what_a_node_sends_is_queued_and_what_it_shall_not_hear_is_dropped(side, sent, received):
    state = LinkState(LIMITED, deaf_to=Senders(frozenset(MACS[:1]), frozenset({FOUR, SIX})))
    made = steps(link(side), NOTHING, state)
    assert verdict(made, sent, frame(OTHER_FOUR, FOUR)) == "v1-q0"
    assert verdict(made, sent, bytes(60)) == "v1-q0"
    assert verdict(made, received, frame(FOUR, OTHER_FOUR)) == DROPPED
    assert verdict(made, received, frame(SIX, OTHER_SIX)) == DROPPED
    assert verdict(made, received, frame(OTHER_FOUR, FOUR, MACS[0])) == DROPPED
    assert verdict(made, received, frame(OTHER_FOUR, FOUR)) == UNDECIDED
    assert verdict(made, received, frame(OTHER_SIX, SIX)) == UNDECIDED


def test_a_sender_s_arp_is_dropped_too():
    made = steps(link(), NOTHING, LinkState(deaf_to=Senders(frozenset(MACS))))
    for mac in MACS:
        arp = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x08\x06" + bytes(28)
        assert verdict(made, "egress", arp) == DROPPED
    assert verdict(made, "egress", b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28)) == UNDECIDED


def test_the_first_selection_with_the_destination_wins_over_the_rest():
    state = LinkState(
        SLOW,
        (
            Selection(frozenset({FOUR, SIX}), LIMITED),
            Selection(frozenset({OTHER_FOUR}), Figures(latency_ms=0)),
        ),
    )
    made = steps(link(), NOTHING, state)
    assert verdict(made, "ingress", frame(OTHER_FOUR, FOUR)) == "v1-q1"
    assert verdict(made, "ingress", frame(OTHER_SIX, SIX)) == "v1-q1"
    assert verdict(made, "ingress", frame(FOUR, OTHER_FOUR)) == ACCEPTED  # nothing acts on it
    assert verdict(made, "ingress", frame(SIX, OTHER_SIX)) == "v1-q0"


def test_who_commands_the_node_over_the_link_is_spared():
    made = steps(
        link(spare=frozenset({FOUR})), NOTHING, LinkState(Figures(packet_loss_percent=100))
    )
    assert verdict(made, "ingress", frame(OTHER_FOUR, FOUR)) == ACCEPTED
    assert verdict(made, "ingress", frame(FOUR, OTHER_FOUR)) == "v1-q0"
    arp = bytes(12) + b"\x08\x06" + bytes(28)  # or both would lose each other
    assert verdict(made, "ingress", arp) == ACCEPTED


def test_many_senders_fit_into_programs_that_the_kernel_takes():
    senders = [ip_address(f"10.{i // 250}.{i % 250}.1") for i in range(2000)]
    made = steps(link(), NOTHING, LinkState(deaf_to=Senders(addresses=frozenset(senders))))
    assert all(len(one.program) <= 4096 for one in made if isinstance(one, AddFilter))
    assert all(verdict(made, "egress", frame(one, FOUR)) == DROPPED for one in senders)
    assert verdict(made, "egress", frame(ip_address("10.9.9.9"), FOUR)) == UNDECIDED


STATES = [
    NOTHING,
    LinkState(LIMITED),
    LinkState(SLOW),
    LinkState(deaf_to=Senders(frozenset(MACS))),
    LinkState(SLOW, (Selection(frozenset({FOUR}), LIMITED),), Senders(frozenset(MACS[:1]))),
]


@pytest.mark.parametrize(("before", "after"), [*itertools.product(STATES, STATES)])
def test_from_any_state_to_any_other_leaves_just_what_the_other_has(before, after):
    there = _play(steps(link(), NOTHING, before), {})
    assert _play(steps(link(), before, after), there) == _play(steps(link(), NOTHING, after), {})
    assert steps(link(), after, after) == []


def _play(made: list[Step], there: dict[Any, Any]) -> dict[Any, Any]:
    """Do as a kernel does, which refuses to create what is there, and to delete what is not."""
    there = dict(there)
    for step in made:
        match step:
            case AddMirror(device):
                assert device not in there
                there[device] = None
            case DeleteDevice(device):
                assert not any(device == getattr(one, "redirect", None) for one in there.values())
                del there[device]
            case SetNetem() | SetRate():
                assert step.device in there
                there[step.device] = step
            case AddClassifier(device):
                assert ("clsact", device) not in there
                there["clsact", device] = step
            case AddFilter():
                assert ("clsact", step.device) in there
                assert step.redirect is None or step.redirect in there
                there[step.device, step.hook, step.priority] = step
            case DeleteFilter():
                del there[tuple(step)]
            case DeleteClassifier(device):
                for key in [key for key in there if isinstance(key, tuple) and device in key]:
                    del there[key]
    return there


def test_names_of_devices_fit_and_differ():
    names = set()
    for device in ("eth0", "a" * 15, "a" * 14 + "b", "vnet12345678901"):
        state = LinkState(LIMITED, (Selection(frozenset({FOUR}), LIMITED),))
        added = steps(link(device=device), NOTHING, state)
        made = [one.device for one in added if isinstance(one, AddMirror)]
        assert all(len(name) <= 15 for name in made)
        names |= set(made)
    assert len(names) == 8


@pytest.mark.parametrize(
    ("figures", "packets"),
    [
        ({"latency_ms": 50, "bandwidth_kbps": 10_000}, 124),  # 150 ms of 10 Mbit/s
        ({"latency_ms": 2000, "bandwidth_kbps": 1_000}, 174),
        ({"latency_ms": 50}, 123_845),  # 150 ms of 10 Gbit/s
        ({"latency_ms": 60_000}, 1_000_000),
    ],
)
def test_a_queue_holds_what_is_under_way_and_a_buffer(figures, packets):
    made = queue("q", Figures(**figures))
    assert isinstance(made, SetNetem)
    assert made.limit == packets


def test_a_rate_alone_needs_no_netem():
    assert queue("q", Figures(bandwidth_kbps=8_000)) == SetRate("q", 1_000_000, 5000, 105_000)
    assert queue("q", Figures(bandwidth_kbps=0)) is None


def test_steps_survive_json():
    state = LinkState(SLOW, (Selection(frozenset({FOUR}), LIMITED),), Senders(frozenset(MACS)))
    for step in [*steps(link(), NOTHING, state), *steps(link(), state, NOTHING)]:
        assert to_json(from_json(to_json(step))) == to_json(step)


QUEUE = (
    "qdisc replace dev eth0-q0 root handle 1: netem limit 100 delay 50000.000us 5000.000us "
    "distribution normal loss 30% rate 1000000bit"
)
FILTER = (
    "filter replace dev eth0 egress pref 1000 protocol all handle 1 "
    "bpf bytecode '1,6 0 0 4294967295' action mirred egress redirect dev eth0-q0"
)
ALL_AT_ONCE = {
    "latency_ms": 50,
    "jitter_ms": 5,
    "jitter_distribution": "normal",
    "packet_loss_percent": 30,
    "bandwidth_kbps": 1000,
}


def test_commands_say_the_same():
    state = LinkState(
        Figures(
            latency_ms=50,
            jitter_ms=5,
            jitter_distribution="normal",
            packet_loss_percent=30,
            bandwidth_kbps=1000,
        )
    )
    (ip, links), (tc, control) = batches(steps(link(Side.INSIDE, "eth0"), NOTHING, state))
    assert (ip, tc) == (("ip", "-batch", "-"), ("tc", "-batch", "-"))
    assert links == "link add eth0-q0 type ifb\nlink set eth0-q0 up\n"
    assert control.splitlines() == [
        QUEUE,
        "qdisc add dev eth0 clsact",
        FILTER,
    ]
    undone = batches(steps(link(Side.INSIDE, "eth0"), state, NOTHING))
    assert [text for _, text in undone] == ["qdisc del dev eth0 clsact\n", "link delete eth0-q0\n"]
