"""Steps of traffic control as commands of iproute2, for kernels that are reached by commands only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
)

__all__ = ["Batch", "batches"]

Batch = tuple[tuple[str, ...], str]
"""A command, and what it reads from standard input: a line for each step. Both end at the first failure."""

_IP, _TC = ("ip", "-batch", "-"), ("tc", "-batch", "-")


def batches(steps: Sequence[Step]) -> list[Batch]:
    """Return the commands that carry out the steps, to be run one after the other."""
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for step in steps:
        argv = _IP if isinstance(step, AddMirror | DeleteDevice) else _TC
        if not found or found[-1][0] != argv:
            found.append((argv, []))
        found[-1][1].extend(_lines(step))
    return [(argv, "".join(f"{line}\n" for line in lines)) for argv, lines in found]


def _lines(step: Step) -> Iterator[str]:
    match step:
        case AddMirror(device):
            yield f"link add {device} type ifb"
            yield f"link set {device} up"
        case DeleteDevice(device):
            yield f"link delete {device}"
        case SetNetem():
            yield f"qdisc replace dev {step.device} root handle 1: netem {_netem(step)}"
        case SetRate(device, rate, burst, limit):
            yield (
                f"qdisc replace dev {device} root handle 1: "
                f"tbf rate {rate * 8}bit burst {burst}b limit {limit}b"
            )
        case AddClassifier(device):
            yield f"qdisc add dev {device} clsact"
        case DeleteClassifier(device):
            yield f"qdisc del dev {device} clsact"
        case AddFilter():
            yield _filter(step)
        case DeleteFilter(device, hook, priority):
            yield f"filter del dev {device} {hook} pref {priority} protocol all bpf"


def _netem(step: SetNetem) -> str:
    parts = [f"limit {step.limit}"]
    if step.delay or step.jitter:
        # In fractions of the smallest unit that `tc` takes in all its versions.
        parts.append(f"delay {step.delay / 1000:.3f}us {step.jitter / 1000:.3f}us")
    if step.jitter and step.normal:
        parts.append("distribution normal")
    shares = {
        "loss": step.loss,
        "duplicate": step.duplicate,
        "corrupt": step.corrupt,
        "reorder": step.reorder,
    }
    parts += [f"{name} {share * 100:.6g}%" for name, share in shares.items() if share]
    if step.rate:
        parts.append(f"rate {step.rate * 8}bit")
    return " ".join(parts)


def _filter(step: AddFilter) -> str:
    instructions = ",".join(" ".join(map(str, instruction)) for instruction in step.program)
    program = f"bpf bytecode '{len(step.program)},{instructions}'"
    end = (
        "direct-action"
        if step.redirect is None
        else f"action mirred egress redirect dev {step.redirect}"
    )
    place = f"dev {step.device} {step.hook} pref {step.priority} protocol all handle 1"
    return f"filter replace {place} {program} {end}"
