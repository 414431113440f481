"""What a lab tells of its work while it is under way, for whoever draws it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["READY", "WAITS", "Steps"]

READY = "ready"
"""The step that a node begins when it is up, and never ends."""

WAITS = "waits for "
"""How a step begins in which a node waits for another."""


class Steps(Protocol):
    """Is told, in the thread of the labs, which step a node begins and ends; None: the lab as a whole.

    A node is in one step at a time; the next one's beginning ends the one before.
    """

    def began(self, node: str | None, step: str) -> None:
        """A step begins."""
        ...

    def ended(self, node: str | None, step: str) -> None:
        """It has ended, well or not."""
        ...
