"""What the labs of an xdist worker that ended unforeseen have come to: its watchdog removes them."""

from __future__ import annotations

import time
from collections.abc import Collection

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.ledger import Found, Ledger, Standing

__all__ = ["left_by"]

_PAUSE = 0.1


def left_by(owners: Collection[int], seconds: float, ledger: Ledger | None = None) -> list[str]:
    """Return a line for each lab of these processes that is still there after so long."""
    ledger, deadline = ledger or Ledger(), time.monotonic() + seconds
    numbers = {str(owner) for owner in owners}
    while True:
        try:
            labs = [found for found in ledger.labs() if _owner(found) in numbers]
        except LabError as error:
            return [str(error)]
        # What somebody holds is being removed.
        waiting = [found for found in labs if found.standing is Standing.LIVE]
        if not waiting or time.monotonic() >= deadline:
            left = (Standing.LIVE, Standing.LEFT)
            return [_line(found) for found in labs if found.standing in left]
        time.sleep(_PAUSE)


def _owner(found: Found) -> str | None:
    return None if found.record is None else found.record.labels.get("benchscale.pid")


def _line(found: Found) -> str:
    name = found.record.name if found.record else "?"
    return (
        f"lab {found.lab_id} ({name!r}) of a worker that is gone (pid {_owner(found)}) is left; "
        "`benchscale gc` shows what there is of it"
    )
