"""What a node says, as it says it: `logs -f`."""

from __future__ import annotations

import json
import sys
import time

from pytest_benchscale.backends.base import NodeStatus
from pytest_benchscale.commands.screen import Interrupted, interruptible
from pytest_benchscale.commands.whereabouts import visiting

__all__ = ["added", "follow"]

_PAUSE = 0.5  # seconds between looks: not every backend tells of news
_ENDED = frozenset({NodeStatus.DEAD, NodeStatus.STOPPED})
_OVERLAP = 4096  # characters by which the place is found again in a log that has lost its beginning
_HALF = "\ufffd"  # what stands for the first bytes of a character whose others have yet to come


def follow(lab: str, name: str, *, as_json: bool) -> int:
    """Show a node's log and what is added to it, until the node ends or a signal comes.

    Raises:
        LabError, BackendUnavailable: the lab cannot be entered, or its daemon is gone.
    """
    try:
        with interruptible(), visiting(lab) as there:
            node = there.sync[name]
            shown = ""
            while True:
                has_ended = (
                    node.status in _ENDED
                )  # asked first: what it had said by then is in the log
                text = node.logs()
                if not has_ended:
                    text = text.rstrip(_HALF)
                if new := added(shown, text):
                    sys.stdout.write(
                        json.dumps({"node": name, "log": new}) + "\n" if as_json else new
                    )
                    sys.stdout.flush()
                if has_ended:
                    return 0
                shown = text
                time.sleep(_PAUSE)
    except Interrupted as interrupted:
        return interrupted.exit_code


def added(before: str, now: str) -> str:
    """Return what a log has now and had not before; the log may have lost its beginning meanwhile."""
    if now.startswith(before):
        return now[len(before) :]
    end = before[-_OVERLAP:]
    place = now.rfind(end)
    return now[place + len(end) :] if place >= 0 else now
