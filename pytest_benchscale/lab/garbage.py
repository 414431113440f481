"""What of the ledger's labs is garbage, and what is not: for `benchscale gc`, and a line in the header.

Only a lab whose owner is dead, or that was kept and whose time is over, is ever removed. What carries our
labels and is not in this ledger is somebody else's: another user's, or of another state directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import OwnedThing
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.lab.ledger import Entry, Found, Ledger, Standing
from pytest_benchscale.lab.reaper import At, Outcome, look, reap

__all__ = ["GARBAGE", "Survey", "collect", "leftovers", "survey"]

GARBAGE = frozenset({Standing.LEFT, Standing.EXPIRED})


@dataclass(slots=True)
class Survey:
    """What there is. `garbage` can be removed now; `left` goes with the reason why it stays.

    `things` are what the garbage consists of, by lab. `strangers` are at the daemons and not in this ledger.
    """

    garbage: list[Found] = field(default_factory=list)
    left: list[tuple[Found, str]] = field(default_factory=list)
    things: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    strangers: list[tuple[str, OwnedThing]] = field(default_factory=list)


def survey(ledger: Ledger) -> Survey:
    """Look at the ledger and at the daemons, and change nothing.

    Raises:
        LabError: the ledger cannot be read.
    """
    found = list(ledger.labs())
    records = {one.lab_id: one.record for one in found if one.record is not None}
    wanted = [records[one.lab_id] for one in found if one.standing in GARBAGE]
    labs, everybodys, errors = look(
        wanted, ledger, [*map(At.of, records.values()), *_places_of_here()]
    )
    seen = Survey()
    for one in found:
        if one.standing is Standing.UNMADE:
            seen.garbage.append(one)
        elif one.standing not in GARBAGE:
            seen.left.append((one, _why_it_stays(one, ledger)))
        elif (why := _why_later(one, labs, errors)) is not None:
            seen.left.append((one, f"kept for later: {why}"))
        else:
            seen.garbage.append(one)
            seen.things[one.lab_id] = labs[one.lab_id].things
    known = {(record.owner, lab_id) for lab_id, record in records.items()}
    strangers = {
        (at.backend, thing.kind, thing.identifier): (at.backend, thing)
        for at, things in everybodys.items()
        for thing in things
        if (thing.owner, thing.lab_id) not in known and (thing.owner or thing.lab_id not in records)
    }
    seen.strangers = list(strangers.values())
    return seen


def collect(ledger: Ledger, garbage: Sequence[Found]) -> Iterator[Outcome]:
    """Remove labs that a survey has found to be garbage, unless somebody has taken them since then."""
    entries: list[Entry] = []
    for one in garbage:
        if one.standing is Standing.UNMADE:
            yield _done(one.lab_id, gone=ledger.clear(one.lab_id))
            continue
        entry = ledger.take(one.lab_id)
        if entry is not None and entry.standing in GARBAGE:
            entries.append(entry)
            continue
        if entry is not None:
            entry.let_go()
        yield _done(one.lab_id, gone=not ledger.knows(one.lab_id))
    yield from reap(entries, ledger)


def _done(lab_id: str, *, gone: bool) -> Outcome:
    if gone:
        return Outcome(lab_id, gone=True)
    return Outcome(lab_id, gone=False, error="another process has it now", elsewhere=True)


def leftovers() -> str | None:
    """Return a line about what ended sessions have left, None: nothing, as far as the ledger tells."""
    try:
        found = [one for one in Ledger().labs() if one.standing in GARBAGE]
    except LabError:  # whoever needs the ledger is told
        return None
    if not found:
        return None
    backends = ", ".join(sorted({one.record.backend for one in found if one.record}))
    labs = (
        "1 lab of an ended session is"
        if len(found) == 1
        else f"{len(found)} labs of ended sessions are"
    )
    return f"{labs} left ({backends}): `benchscale list`, `benchscale gc`"


def _places_of_here() -> list[At]:
    """Return the daemons to which this environment leads, of the backends whose labs outlive a session."""
    places = []
    for name in registry.names():
        try:
            if registry.get(name).outlives_us:
                places.append(At(name))
        except BackendUnavailable:
            continue
    return places


def _why_it_stays(one: Found, ledger: Ledger) -> str:
    if one.standing is Standing.BROKEN:
        place = ledger.directory / "labs" / one.lab_id
        return f"its record in {place} cannot be relied on: {one.problem}"
    if one.standing is Standing.LIVE:
        pid = one.record.labels.get("benchscale.pid") if one.record else None
        return f"in use by process {pid}" if pid else "in use"
    return "kept"


def _why_later(one: Found, labs: dict[str, Outcome], errors: dict[At, str]) -> str | None:
    """Return why a lab cannot be removed now; None: it can."""
    assert one.record is not None  # noqa: S101  garbage has one
    if (outcome := labs.get(one.lab_id)) is not None:
        return outcome.error
    at = At.of(one.record)
    return f"{at}: {errors.get(at, 'nothing was told of it')}"
