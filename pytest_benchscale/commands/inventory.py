"""Which labs there are, and removing those whose owner is dead: `list` and `gc`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_benchscale.commands.output import count, print_table

if TYPE_CHECKING:
    from pytest_benchscale.lab.garbage import Survey
    from pytest_benchscale.lab.ledger import Found
    from pytest_benchscale.lab.reaper import Outcome

__all__ = ["add_to"]

_UNITS = (("d", 86400), ("h", 3600), ("min", 60))
_HEAD = ("lab", "name", "backend", "nodes", "age", "standing", "owner", "until")
_SHORT = 12  # digits of an id


def add_to(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    listing = commands.add_parser("list", help="show the labs that outlive their session")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(run=_list)

    gc = commands.add_parser(
        "gc",
        help="remove labs whose owner is dead, or whose time is over",
        description="Shows what it would remove, and what not and why; removes it with --yes.",
    )
    gc.add_argument("--yes", action="store_true", help="remove it")
    gc.add_argument("--json", action="store_true", help="for programs")
    gc.set_defaults(run=_gc)


def _list(options: argparse.Namespace) -> int:
    from pytest_benchscale.lab.ledger import Ledger  # noqa: PLC0415  --help needs it not

    found = list(Ledger().labs())
    if options.json:
        print(json.dumps([_facts(one) for one in found], indent=2))
    elif found:
        print_table(_HEAD, [_row(one) for one in found])
    else:
        print("there are no labs")
    return 0


def _facts(one: Found) -> dict[str, Any]:
    """Return what is known of a lab; times are in seconds, `created` and `until` since 1970."""
    record = one.record
    facts = {"lab": one.lab_id, "standing": one.standing.name.lower(), "problem": one.problem}
    if record is None:
        return facts
    return facts | {
        "name": record.name,
        "backend": record.backend,
        "nodes": list(record.nodes),
        "source": record.source,
        "created": record.created,
        "age": _age(one),
        "owner": _owner(one),
        "until": one.kept.until if one.kept else None,
        "dirty": one.kept.dirty if one.kept else None,
        "reuse": one.kept.reuse if one.kept else None,
        "rebooted": one.rebooted,
        "place": dict(record.place),
    }


def _row(one: Found) -> Sequence[str]:
    record, until = one.record, ""
    standing = f"{one.standing}: {one.problem}" if one.problem else str(one.standing)
    if one.rebooted:
        standing += "; the machine was restarted since"
    if record is None:
        return (one.lab_id, "", "", "", "", standing, "", "")
    if one.kept:
        until = _time(one.kept.until) if one.kept.until is not None else "ended by hand"
    nodes, age = str(len(record.nodes)), _in_words(_age(one))
    owner = "" if one.kept else str(_owner(one) or "")
    return (one.lab_id, record.name, record.backend, nodes, age, standing, owner, until)


def _gc(options: argparse.Namespace) -> int:
    from pytest_benchscale.lab import garbage  # noqa: PLC0415
    from pytest_benchscale.lab.ledger import Ledger  # noqa: PLC0415

    ledger = Ledger()
    seen = garbage.survey(ledger)
    outcomes = list(garbage.collect(ledger, seen.garbage)) if options.yes else None
    if options.json:
        print(json.dumps(_report(seen, outcomes), indent=2))
    else:
        _print(seen, outcomes)
    return int(any(not (one.gone or one.elsewhere) for one in outcomes or ()))


def _report(seen: Survey, outcomes: Iterable[Outcome] | None) -> dict[str, Any]:
    done = {outcome.lab_id: outcome for outcome in outcomes or ()}
    garbage = []
    for one in seen.garbage:
        things = [{"kind": kind, "id": name} for kind, name in seen.things.get(one.lab_id, ())]
        facts = {**_facts(one), "things": things}
        if outcome := done.get(one.lab_id):
            facts |= {"removed": outcome.gone, "error": outcome.error}
        garbage.append(facts)
    return {
        "dry_run": outcomes is None,
        "garbage": garbage,
        "left": [{**_facts(one), "why": why} for one, why in seen.left],
        "not_ours": [
            {"backend": backend, "kind": thing.kind, "id": thing.identifier}
            | {"lab": thing.lab_id, "run": thing.owner}
            for backend, thing in seen.strangers
        ],
    }


def _print(seen: Survey, outcomes: Sequence[Outcome] | None) -> None:
    done = {outcome.lab_id: outcome for outcome in outcomes or ()}
    for one in seen.garbage:
        outcome = done.get(one.lab_id)
        print(f"{_what_became(outcome)}: {_named(one)}: {_why(one)}")
        for kind, name in seen.things.get(one.lab_id, ()):
            print(f"    {kind} {_short(name)}")
        if outcome is not None and outcome.error:
            print(f"    {outcome.error}")
    for one, why in seen.left:
        until = one.kept.until if one.kept and why == "kept" else None
        print(f"left alone: {_named(one)}: {why}{f' until {_time(until)}' if until else ''}")
    labs: dict[tuple[str, str], list[str]] = {}
    for backend, thing in seen.strangers:
        names = labs.setdefault((backend, thing.lab_id), [])
        names.append(f"{thing.kind} {_short(thing.identifier)}")
    for (backend, lab_id), names in labs.items():
        print(
            f"left alone: lab {lab_id or '?'} ({backend}): not in this ledger: {', '.join(names)}"
        )
    if not seen.garbage:
        print("there is nothing to remove")
    elif outcomes is None:
        print(f"{count(len(seen.garbage), 'lab')} would be removed by `benchscale gc --yes`")


def _what_became(outcome: Outcome | None) -> str:
    if outcome is None:
        return "would remove"
    if outcome.gone:
        return "removed"
    return "left alone" if outcome.elsewhere else "NOT removed"


def _named(one: Found) -> str:
    known = f" ({one.record.name}, {one.record.backend})" if one.record else ""
    return f"lab {one.lab_id}{known}"


def _why(one: Found) -> str:
    from pytest_benchscale.lab.ledger import Standing  # noqa: PLC0415

    owner = f" by process {_owner(one)}" if one.standing is Standing.LEFT else ""
    return f"{one.standing}{owner}{', before the machine was restarted' if one.rebooted else ''}"


def _owner(one: Found) -> int | None:
    pid = one.record.labels.get("benchscale.pid", "") if one.record else ""
    return int(pid) if pid.isdecimal() else None


def _age(one: Found) -> float:
    """Return the seconds since a lab was made; by the clock only where the boot was another one."""
    from pytest_benchscale.lab.owner import since_boot  # noqa: PLC0415

    assert one.record is not None  # noqa: S101  asked only then
    if one.rebooted:
        return max(0.0, time.time() - one.record.created)
    return max(0.0, since_boot() - one.record.booted)


def _in_words(seconds: float) -> str:
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:g} {unit}"
    return f"{seconds:.0f} s"


def _time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _short(identifier: str) -> str:
    """Return an id as people write it; a name as it is."""
    digits = identifier.removeprefix("sha256:")
    is_id = len(digits) == 64 and set(digits) <= set("0123456789abcdef")
    return digits[:_SHORT] if is_id else identifier
