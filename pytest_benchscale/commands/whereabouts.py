"""Which kept lab a command is about, and a way into it that leaves it as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.arguments import did_you_mean
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Found, Ledger, Standing
from pytest_benchscale.lab.opening import visit
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.lab.record import LabRecord

__all__ = ["at_place", "find", "visiting"]

_WHY_NOT = {
    Standing.LIVE: (
        "is in use",
        "wait until its session ends; a lab is kept with --benchscale-keep or `benchscale up`",
    ),
    Standing.LEFT: ("was left behind by a session that died", "remove it: `benchscale gc --yes`"),
    Standing.UNMADE: ("was never made", "remove it: `benchscale gc --yes`"),
    Standing.BROKEN: ("cannot be read from the ledger", "look at its record by hand"),
}


def find(wanted: str | None, ledger: Ledger) -> Found:
    """Return the kept lab that is meant: by its id, the beginning of one, or its name; None: the only one.

    Raises:
        LabError: there is none, there are several, or it is not one that can be entered.
    """
    known = list(ledger.labs())
    meant = _meant(wanted, known)
    enterable = [one for one in meant if one.standing not in _WHY_NOT]
    if len(enterable) > 1:
        raise LabError(
            f"{wanted!r} may be any of {len(enterable)} labs" if wanted else "which lab?",
            step="look-up",
            details=_listing(enterable),
            resolution="name it by its id, or as much of it as no other id begins with",
        )
    if enterable:
        return enterable[0]
    if meant and (wanted or len(meant) == 1):
        why, advice = _WHY_NOT[meant[0].standing]
        raise LabError(f"lab {meant[0].lab_id} {why}", step="look-up", resolution=advice)
    raise LabError(
        f"there is no kept lab {wanted!r}{did_you_mean(wanted, _names(known))}"
        if wanted
        else "there is no kept lab",
        step="look-up",
        details=f"the labs in {ledger.directory}:\n{_listing(known)}" if known else None,
        resolution="`benchscale list` shows them; `benchscale up FILE` brings one up",
    )


@contextmanager
def visiting(wanted: str | None) -> Iterator[Lab]:
    """Enter a kept lab for a block; it is not ours, and stays as it is.

    Raises:
        LabError: it cannot be found, somebody takes it away just now, or it is not whole any more.
        BackendUnavailable: its backend cannot be used here and now.
    """
    ledger = Ledger()
    found = find(wanted, ledger)
    entered = ledger.visit(found.lab_id)
    if entered is None:
        raise LabError(
            f"lab {found.lab_id} was taken by somebody else just now",
            step="look-up",
            resolution="`benchscale list` shows what became of it",
        )
    entry, kept = entered
    try:
        with at_place(entry.record), Portal() as portal:
            lab = portal.call_blocking(visit, entry, kept, portal)
            try:
                yield lab
            finally:
                portal.call_blocking(lab.leave)
    finally:
        entry.let_go()


@contextmanager
def at_place(record: LabRecord) -> Iterator[None]:
    """Have the environment lead to a lab's daemon in this block."""
    before = dict(os.environ)
    os.environ.update(record.place)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _meant(wanted: str | None, known: Sequence[Found]) -> list[Found]:
    if wanted is None:
        return list(known)
    exact = [one for one in known if one.lab_id == wanted]
    titled = [one for one in known if one.record is not None and one.record.title == wanted]
    named = [one for one in known if one.record is not None and one.record.name == wanted]
    return exact or titled or named or [one for one in known if one.lab_id.startswith(wanted)]


def _names(labs: Sequence[Found]) -> list[str]:
    return [
        name
        for one in labs
        for name in (one.lab_id, *((one.record.title, one.record.name) if one.record else ()))
        if name
    ]


def _listing(labs: Sequence[Found]) -> str:
    return "\n".join(f"{one.lab_id}  {_called(one)}  ({one.standing})" for one in labs)


def _called(one: Found) -> str:
    if one.record is None:
        return "?"
    return f"{one.record.title} ({one.record.name})" if one.record.title else one.record.name
