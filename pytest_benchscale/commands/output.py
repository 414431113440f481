"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count", "print_table"]


def count(number: int, noun: str) -> str:
    """Return how many there are, as in "1 node" and "2 nodes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell; a cell is one line."""
    table = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
