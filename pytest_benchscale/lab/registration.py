"""A lab's place in the ledger: from before its first thing is made until after its last is gone."""

from __future__ import annotations

import time
from pathlib import Path

from anyio import to_thread

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.lab import turns
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.ledger import Entry, Ledger
from pytest_benchscale.lab.owner import since_boot
from pytest_benchscale.lab.record import Kept, LabRecord
from pytest_benchscale.lab.watching import WATCHING
from pytest_benchscale.topology.model import Topology

__all__ = ["Registration"]


class Registration:
    """What a lab's owner tells others of it. Nothing is written of a lab that ends with our processes."""

    def __init__(self, record: LabRecord, entry: Entry | None) -> None:
        self.record = record
        self._entry = entry

    @classmethod
    async def begin(cls, plan: LabPlan, topology: Topology, context: LabContext) -> Registration:
        """Register a lab of which nothing exists yet, when it is its turn.

        Raises:
            SubnetTaken: another process has a lab with one of its subnets.
            LabError: it cannot be written down, or watched over.
        """
        backend = context.backend
        record = LabRecord.of(
            plan,
            topology,
            backend=backend.name,
            place=dict(backend.place()),
            conditions=context.options.conditions,
            resettable=context.options.resettable,
            title=context.options.title,
            created=time.time(),
            booted=since_boot(),
        )
        if not backend.outlives_us:
            return cls(record, None)
        fixed = {network.name for network in topology.networks if network.subnet}
        return cls(record, await turns.enter(record, fixed, context))

    @classmethod
    async def take_over(cls, entry: Entry) -> Registration:
        """Take over a lab that was kept.

        Raises:
            OSError: that cannot be written down.
            LabError: it cannot be watched over.
        """
        await to_thread.run_sync(WATCHING.learn, entry)
        try:
            await to_thread.run_sync(entry.note, "taken")
        except OSError:
            await to_thread.run_sync(WATCHING.done, entry.record.lab_id)
            raise
        return cls(entry.record, entry)

    @property
    def directory(self) -> Path | None:
        """Where the lab may have files of its own, which go with it; None: it has nothing that stays."""
        return self._entry.directory if self._entry else None

    async def end(self) -> None:
        """Nothing of the lab is left. Safe to call twice."""
        if (entry := self._entry) is not None:
            await to_thread.run_sync(entry.strike)
            await to_thread.run_sync(WATCHING.done, self.record.lab_id)
            self._entry = None

    async def enter(self) -> None:
        """Write a lab down that would have ended with our processes: it is about to be kept.

        Raises:
            LabError: it cannot be written down.
        """
        if self._entry is None:
            self._entry = await to_thread.run_sync(Ledger().enter, self.record)

    async def keep(self, kept: Kept) -> None:
        """Leave the lab as it is, for whoever takes it over.

        Raises:
            LabError, OSError: that cannot be written down.
        """
        await self.enter()
        if (entry := self._entry) is None:
            return
        await to_thread.run_sync(lambda: entry.note("kept", **kept.to_json()))
        await to_thread.run_sync(WATCHING.release, entry)
        self._entry = None
