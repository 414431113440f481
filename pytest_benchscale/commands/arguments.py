"""Command lines with a command for a node in them."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """A parser that, with `takes_command`, leaves what is after the first `--` as it is: as `command`."""

    def __init__(self, *args: Any, takes_command: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._takes_command = takes_command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what is before the `--`."""
        if not self._takes_command:
            return super().parse_known_args(args, namespace)
        words = list(args or ())
        end = words.index("--") if "--" in words else len(words)
        namespace, unknown = super().parse_known_args(words[:end], namespace)
        namespace.command = words[end + 1 :]
        return namespace, unknown
