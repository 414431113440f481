"""Carrying out steps of traffic control through rtnetlink, in one network namespace.

Message layouts: linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h. Only the
standard library is imported; see `steps`.
"""

from __future__ import annotations

import errno
import struct
from functools import cache

from pytest_benchscale.network.netlink import Netlink, attribute, nested, number, text
from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    AddMirror,
    DeleteClassifier,
    DeleteDevice,
    DeleteFilter,
    SetNetem,
    SetRate,
)

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_benchscale.network.steps import Hook, Step

__all__ = ["TrafficControl"]

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER = 36, 37, 44, 45
_ASK = 0x1 | 0x4  # NLM_F_REQUEST, NLM_F_ACK
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400

_TCMSG = struct.Struct("=BxxxiIII")  # family, link, handle, parent, info
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT, _CLSACT = 0xFFFFFFFF, 0xFFFFFFF1
_CLSACT_HANDLE, _QDISC_HANDLE = 0xFFFF0000, 0x00010000
_HOOKS: dict[Hook, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network byte order

_NETEM_REORDER, _NETEM_CORRUPT, _NETEM_RATE, _NETEM_RATE64 = 3, 4, 6, 8
_NETEM_DISTRIBUTION, _NETEM_LATENCY64, _NETEM_JITTER64 = 2, 10, 11
_NETEM_QOPT = struct.Struct("=IIIIII")  # latency, limit, loss, gap, duplicate, jitter
_DISTRIBUTION_SIZE, _DISTRIBUTION_SCALE = 4096, 8192

_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_ETHERNET = 1
_U32 = 0xFFFFFFFF

_BPF_ACT, _BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS = 1, 4, 5, 8
_DIRECT_ACTION = 1
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_MIRRED = struct.Struct("=IIiiiiI")  # index, capab, action, refcnt, bindcnt, eaction, ifindex
_STOLEN, _EGRESS_REDIRECT = 4, 1


class TrafficControl:
    """Changes traffic control in the network namespace in which it was opened.

    The calling thread may be in another one later.
    """

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        """Close the way to the kernel; what was set stays."""
        self._netlink.close()

    def carry_out(self, steps: Sequence[Step]) -> None:
        """Carry out the steps: new devices first, then all others in their order, as one batch.

        Raises:
            OSError: the first step that the kernel refused. What the others have created is gone again,
                with all that was attached to it; the rest of them was done.
        """
        self._indexes.clear()
        created: list[Step] = []
        try:
            self._create([step for step in steps if isinstance(step, AddMirror)], created)
            self._carry_out([step for step in steps if not isinstance(step, AddMirror)], created)
        except OSError:
            for step in reversed(created):
                self._queue(step)
            self._netlink.settle()
            raise

    def _create(self, mirrors: Sequence[AddMirror], created: list[Step]) -> None:
        """Make devices; `created` gets what takes them away."""
        for mirror in mirrors:
            self._netlink.add_ifb(mirror.device)
            self._netlink.set_up(mirror.device)
        failures = self._netlink.settle()
        for place, mirror in enumerate(mirrors):
            if 2 * place not in failures:
                created.append(DeleteDevice(mirror.device))
        if failures:
            raise failures[min(failures)]

    def _carry_out(self, steps: Sequence[Step], created: list[Step]) -> None:
        """Carry out what is not about new devices; `created` gets what takes away what is new."""
        for device in dict.fromkeys(name for step in steps for name in _devices(step)):
            self._index(device)
        for step in steps:
            self._queue(step)
        failures = self._netlink.settle()
        for place, step in enumerate(steps):
            if isinstance(step, AddClassifier) and place not in failures:
                created.append(DeleteClassifier(step.device))
        if failures:
            raise failures[min(failures)]

    def has_netem(self) -> bool:
        """Return whether the kernel can delay and lose packets: try it on a device of our own.

        Raises:
            OSError: traffic control may not be changed here, or there is no ifb.
        """
        trial = "benchscale-try"
        netem = SetNetem(trial, delay=1_000_000, limit=1000)
        try:
            self.carry_out([AddMirror(trial), netem])
        except OSError as error:
            if error.errno != errno.ENOENT:  # what the kernel says of a qdisc that it does not know
                raise
            return False
        self.carry_out([DeleteDevice(trial)])
        return True

    def _queue(self, step: Step) -> None:
        match step:
            case DeleteDevice(device):
                self._netlink.delete_link(device)
            case SetNetem() | SetRate():
                kind, options = _netem(step) if isinstance(step, SetNetem) else _tbf(step)
                flags = _CREATE | _REPLACE
                body = self._message(step.device, _QDISC_HANDLE, _ROOT) + _options(kind, options)
                self._netlink.queue(_RTM_NEWQDISC, _ASK | flags, body, f"{kind} on {step.device}")
            case AddClassifier(device):
                body = self._message(device, _CLSACT_HANDLE, _CLSACT) + text(_TCA_KIND, "clsact")
                flags = _CREATE | _EXCLUSIVE
                self._netlink.queue(_RTM_NEWQDISC, _ASK | flags, body, f"clsact on {device}")
            case DeleteClassifier(device):
                body = self._message(device, _CLSACT_HANDLE, _CLSACT)
                self._netlink.queue(_RTM_DELQDISC, _ASK, body, f"end of clsact on {device}")
            case AddFilter():
                body = self._filter(step.device, step.hook, step.priority)
                body += _options("bpf", self._bpf(step))
                self._netlink.queue(
                    _RTM_NEWTFILTER, _ASK | _CREATE | _REPLACE, body, f"filter on {step.device}"
                )
            case DeleteFilter(device, hook, priority):
                body = self._filter(device, hook, priority) + text(_TCA_KIND, "bpf")
                self._netlink.queue(_RTM_DELTFILTER, _ASK, body, f"end of filter on {device}")

    def _index(self, device: str) -> int:
        if device not in self._indexes:
            self._indexes[device] = self._netlink.index_of(device)
        return self._indexes[device]

    def _message(self, device: str, handle: int, parent: int) -> bytes:
        return _TCMSG.pack(0, self._index(device), handle, parent, 0)

    def _filter(self, device: str, hook: Hook, priority: int) -> bytes:
        info = priority << 16 | _ALL_PROTOCOLS
        return _TCMSG.pack(0, self._index(device), 1, _HOOKS[hook], info)

    def _bpf(self, step: AddFilter) -> bytes:
        program = b"".join(struct.pack("=HBBI", *instruction) for instruction in step.program)
        body = attribute(_BPF_OPS_LEN, struct.pack("=H", len(step.program)))
        body += attribute(_BPF_OPS, program)
        if step.redirect is None:
            return body + number(_BPF_FLAGS, _DIRECT_ACTION)
        target = self._index(step.redirect)
        mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
        action = nested(
            1, text(_ACT_KIND, "mirred"), nested(_ACT_OPTIONS, attribute(_MIRRED_PARMS, mirred))
        )
        return body + nested(_BPF_ACT, action)


def _devices(step: Step) -> tuple[str, ...]:
    """Return the devices of which a step needs the index."""
    if isinstance(step, DeleteDevice):
        return ()
    return (
        (step.device, step.redirect)
        if isinstance(step, AddFilter) and step.redirect
        else (step.device,)
    )


def _options(kind: str, options: bytes) -> bytes:
    return text(_TCA_KIND, kind) + attribute(_TCA_OPTIONS, options)


def _netem(step: SetNetem) -> tuple[str, bytes]:
    gap = 1 if step.reorder else 0  # without it, the share of reordered packets counts for nothing
    head = _NETEM_QOPT.pack(0, step.limit, _share(step.loss), gap, _share(step.duplicate), 0)
    attributes = [
        attribute(_NETEM_LATENCY64, struct.pack("=q", step.delay)),
        attribute(_NETEM_JITTER64, struct.pack("=q", step.jitter)),
        attribute(_NETEM_DISTRIBUTION, _distribution(normal=step.normal)),
        attribute(_NETEM_REORDER, struct.pack("=II", _share(step.reorder), 0)),
        attribute(_NETEM_CORRUPT, struct.pack("=II", _share(step.corrupt), 0)),
        attribute(_NETEM_RATE, struct.pack("=IiIi", min(step.rate, _U32), 0, 0, 0)),
    ]
    if step.rate >= _U32:
        attributes.append(attribute(_NETEM_RATE64, struct.pack("=Q", step.rate)))
    return "netem", head + b"".join(attributes)


def _tbf(step: SetRate) -> tuple[str, bytes]:
    rate = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(step.rate, _U32))
    parameters = rate + _RATESPEC.pack(0, 0, 0, 0, 0, 0) + struct.pack("=III", step.limit, 0, 0)
    attributes = [
        attribute(_TBF_PARMS, parameters),
        attribute(_TBF_BURST, struct.pack("=I", step.burst)),
    ]
    if step.rate >= _U32:
        attributes.append(attribute(_TBF_RATE64, struct.pack("=Q", step.rate)))
    return "tbf", b"".join(attributes)


def _share(value: float) -> int:
    """Return a share of 0 to 1 as the kernel compares it with a random number."""
    return round(value * _U32)


@cache
def _distribution(*, normal: bool) -> bytes:
    """Return the table of which netem draws deviations, in units of the jitter.

    Of the even one, too: a queue that has had another table would keep it.
    """
    from statistics import NormalDist  # noqa: PLC0415  it takes long to import

    places = ((i + 0.5) / _DISTRIBUTION_SIZE for i in range(_DISTRIBUTION_SIZE))
    draw = NormalDist().inv_cdf if normal else lambda place: 2 * place - 1
    values = (round(draw(place) * _DISTRIBUTION_SCALE) for place in places)
    bounded = [max(-32768, min(32767, value)) for value in values]
    return struct.pack(f"={len(bounded)}h", *bounded)
