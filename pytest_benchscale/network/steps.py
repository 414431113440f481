"""Traffic control as plain data: what is told to a kernel, whichever way it gets there.

Only the standard library is imported: the process that holds the embedded backend's labs carries steps
out, too.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

__all__ = [
    "AddClassifier",
    "AddFilter",
    "AddMirror",
    "DeleteClassifier",
    "DeleteDevice",
    "DeleteFilter",
    "Hook",
    "Instruction",
    "SetNetem",
    "SetRate",
    "Step",
    "from_json",
    "to_json",
]

Hook = Literal["ingress", "egress"]

Instruction = tuple[int, int, int, int]
"""Of classic BPF: code, jump when true, jump when false, operand. linux/filter.h"""


class AddMirror(NamedTuple):
    """Create an intermediate functional block (ifb), up: what is redirected to it is queued there."""

    device: str


class DeleteDevice(NamedTuple):
    """Delete a device that `AddMirror` made."""

    device: str


class SetNetem(NamedTuple):
    """Have netem be the root qdisc of a device, with these figures; what is queued stays.

    Times are in nanoseconds, shares 0 to 1, `rate` in byte/s (0: unlimited), `limit` in packets.
    """

    device: str
    delay: int
    limit: int
    jitter: int = 0
    normal: bool = False
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    rate: int = 0


class SetRate(NamedTuple):
    """Have a token bucket filter be the root qdisc of a device: byte/s, and two sizes in byte."""

    device: str
    rate: int
    burst: int
    limit: int


class AddClassifier(NamedTuple):
    """Give a device the `clsact` qdisc, to which filters can be attached."""

    device: str


class DeleteClassifier(NamedTuple):
    """Take `clsact` away, with all its filters."""

    device: str


class AddFilter(NamedTuple):
    """Attach a filter, or replace the one of this `priority` (lower ones come first).

    With `redirect`, packets for which the program returns -1 go to that device, others on to the next
    filter. Without, the program's result is the verdict: 2 drops the packet, -1 passes it on.
    """

    device: str
    hook: Hook
    priority: int
    program: tuple[Instruction, ...]
    redirect: str | None


class DeleteFilter(NamedTuple):
    """Detach the filter of a priority."""

    device: str
    hook: Hook
    priority: int


Step = (
    AddMirror
    | DeleteDevice
    | SetNetem
    | SetRate
    | AddClassifier
    | DeleteClassifier
    | AddFilter
    | DeleteFilter
)

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        AddMirror,
        DeleteDevice,
        SetNetem,
        SetRate,
        AddClassifier,
        DeleteClassifier,
        AddFilter,
        DeleteFilter,
    )
}


def to_json(step: Step) -> list[Any]:
    """Return a step as a list that JSON can carry."""
    return [type(step).__name__, *step]


def from_json(data: list[Any]) -> Step:
    """Return the step of such a list."""
    kind, *values = data
    step: Step = _KINDS[kind](*values)
    return step
