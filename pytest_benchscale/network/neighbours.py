"""The kernel's tables of neighbours, which all network namespaces share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["LIMIT", "overflows"]

LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
"""The file with the number of neighbours that fit in; for IPv6 there is one of its own."""

_TABLES = ("arp_cache", "ndisc_cache")
_COLUMN = "table_fulls"


def overflows(directory: Path = Path("/proc/net/stat")) -> int:
    """Return how often a neighbour found no place, since this machine was started; 0: it does not say."""
    total = 0
    for table in _TABLES:
        with suppress(OSError):
            names, *processors = (directory / table).read_text().splitlines()
            if _COLUMN in (columns := names.split()):
                place = columns.index(_COLUMN)
                total += sum(int(line.split()[place], 16) for line in processors)
    return total
