"""Removing a kept lab without entering it: whatever of it carries its labels, and then its record."""

from __future__ import annotations

import anyio
from anyio import to_thread

from pytest_benchscale.backends import registry
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.lab.ledger import Entry
from pytest_benchscale.lab.watching import WATCHING

__all__ = ["remove"]

_DEADLINE = 120.0  # seconds


async def remove(entry: Entry) -> None:
    """Remove a lab whose record is ours, where the environment leads to its daemon.

    What the labels of its record do not prove to be of this lab is not touched. Lets go of the record.

    Raises:
        BenchscaleError: something is left, and the lab stays in the ledger.
    """
    record = entry.record
    try:
        backend = registry.get(record.backend)()
        try:
            with anyio.fail_after(_DEADLINE):
                await backend.probe()
                await backend.delete_owned(record.labels["benchscale.run"], record.lab_id)
        except OSError as error:
            raise LabError(
                f"lab {record.lab_id} was not removed: {str(error) or f'not done in {_DEADLINE:g} s'}",
                step="down",
                resolution="it stays in the ledger; try again, or let `benchscale gc` do it",
            ) from error
        finally:
            with anyio.move_on_after(_DEADLINE, shield=True):
                await backend.close()
        await to_thread.run_sync(entry.strike)
        await to_thread.run_sync(WATCHING.done, record.lab_id)
    except BenchscaleError:
        await to_thread.run_sync(lambda: entry.note("taken"))  # for gc: nobody keeps it any more
        raise
    finally:
        entry.let_go()
