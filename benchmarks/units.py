"""How a row's name tells its backend and its unit."""

from __future__ import annotations

BACKENDS = ("docker", "podman", "ssh", "libvirt")
"""Rows of these begin with their name; the others are those of `local` and of pytest itself."""


def backend_of(row: str) -> tuple[str, str]:
    """Return a row's backend, if its name begins with one, and the rest of the name."""
    backend, _, rest = row.partition(".")
    return (backend, rest) if backend in BACKENDS else ("", row)


def format_value(row: str, value: float) -> str:
    """Return a value with its unit, to about three digits."""
    row = backend_of(row)[1]
    if row == "memory.processes":
        return f"{value:.1f}"
    if row.startswith("memory."):
        unit = "MiB"
    elif abs(value) >= 1:
        unit = "s"
    else:
        value, unit = value * 1000, "ms"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f} {unit}"
