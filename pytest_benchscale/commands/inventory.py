"""Which labs there are, and removing those whose owner is dead: `list` and `gc`."""

from __future__ import annotations

from typing import Any

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
