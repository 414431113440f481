"""Whose turn it is, where the labs of several processes cannot have the same addresses at once.

A lab whose file gives it a subnet waits until no other lab at the same daemon has it. It has nothing while it
waits, so that nobody can be waiting for it. The ledger tells who has what; a lab that a dead process has left
is held by its watchdog until it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import anyio
from anyio import to_thread

from pytest_benchscale.errors import LabError, SubnetTaken
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.ledger import Entry, Ledger, Standing, lock_within
from pytest_benchscale.lab.record import LabRecord
from pytest_benchscale.lab.watching import WATCHING, Watching
from pytest_benchscale.topology.addressing import overlap

__all__ = ["TURN_SECONDS", "enter"]

TURN_SECONDS = 1800.0
"""How long, times the scale, a lab waits: another's tests may take long."""

_PAUSE = 0.1
_LOCK_SECONDS = 30.0  # others have it for milliseconds
_RUN = "benchscale.run"


class _Rival(Exception):
    """Another lab has a subnet that ours overlaps."""

    def __init__(self, network: str, record: LabRecord, subnet: str) -> None:
        super().__init__()
        self.network = network
        self.record = record
        self.subnet = subnet

    def __str__(self) -> str:
        owner = self.record.labels.get("benchscale.pid", "?")
        return f"lab {self.record.name!r} (pid {owner}) which has {self.subnet}"


async def enter(
    record: LabRecord,
    fixed: Collection[str],
    context: LabContext,
    ledger: Ledger | None = None,
    watching: Watching = WATCHING,
) -> Entry:
    """Write a lab down, watched over, when it is its turn. The file gives the `fixed` networks theirs.

    Raises:
        SubnetTaken: another lab has a subnet that may be exchanged for another one, or that cannot be
            waited for, since this process has a lab that somebody may be waiting for.
        LabError: it cannot be written down, or its turn does not come.
    """
    ledger = ledger or Ledger()
    seconds = context.scaled(TURN_SECONDS)
    deadline = anyio.current_time() + seconds
    shares = context.backend.shares_addresses
    while True:
        try:
            with anyio.CancelScope(shield=True):  # else an entry could be made that nobody has
                return await to_thread.run_sync(_enter, record, shares, ledger, watching)
        except _Rival as rival:
            if rival.network not in fixed or watching.labs:
                subnet = ip_network(record.subnets[rival.network])
                raise SubnetTaken(rival.network, subnet, f"it is that of {rival}") from None
            if anyio.current_time() >= deadline:
                raise LabError(
                    f"lab {record.name!r} has waited {seconds:g} s for {rival}",
                    step="addressing",
                    resolution="give the networks other subnets, or none; where the other lab's tests "
                    "just take long, give more time with --benchscale-timeout-scale",
                ) from None
            if context.options.progress is not None:
                context.options.progress(f"waiting for {rival}")
        await anyio.sleep(_PAUSE)


def _enter(record: LabRecord, shares: bool, ledger: Ledger, watching: Watching) -> Entry:
    if not shares:
        return _write_down(record, ledger, watching)
    with _alone(ledger):
        _check(record, ledger)
        return _write_down(record, ledger, watching)


def _write_down(record: LabRecord, ledger: Ledger, watching: Watching) -> Entry:
    watching.expect(record.lab_id, ledger.directory / "labs" / record.lab_id)
    try:
        entry = ledger.enter(record)
        try:
            watching.learn(entry)
        except BaseException:
            entry.strike()
            raise
    except BaseException:
        watching.done(record.lab_id)
        raise
    return entry


def _check(record: LabRecord, ledger: Ledger) -> None:
    """Look whether another process has a lab in the way.

    Raises:
        _Rival: that one.
    """
    for found in ledger.labs():
        other = found.record
        if (
            found.standing is not Standing.LIVE
            or other is None
            or other.labels.get(_RUN) == record.labels.get(_RUN)
            or (other.backend, other.place) != (record.backend, record.place)
        ):
            continue
        for network, subnet in record.subnets.items():
            for theirs in other.subnets.values():
                if overlap(ip_network(subnet), ip_network(theirs)):
                    raise _Rival(network, other, theirs)


@contextmanager
def _alone(ledger: Ledger) -> Iterator[None]:
    """Keep other processes from entering a lab meanwhile, which takes milliseconds.

    Raises:
        LabError: the ledger cannot be used.
    """
    labs = ledger.directory / "labs"
    try:
        labs.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(labs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # to enter the lab fails for the same reason, and says so
        return
    try:
        if not lock_within(descriptor, _LOCK_SECONDS):
            raise LabError(
                f"the ledger at {labs} has been locked for {_LOCK_SECONDS:g} s",
                step="ledger",
                resolution=f"`fuser {labs}` shows by whom; was that process stopped?",
            )
        yield
    finally:
        os.close(descriptor)
