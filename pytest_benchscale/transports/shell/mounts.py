"""What is mounted in a node, as its kernel tells: proc(5), /proc/PID/mounts."""

from __future__ import annotations

import re

__all__ = ["mount_of"]

_OCTAL = re.compile(r"\\([0-7]{3})")  # how spaces and the like are written there


def mount_of(path: str, table: str) -> str:
    """Return where the file system is mounted that an absolute path without symlinks is in."""
    points = (line.split(" ")[1] for line in table.splitlines() if line.count(" ") >= 2)
    decoded = (_OCTAL.sub(lambda match: chr(int(match[1], 8)), point) for point in points)
    covering = (point for point in decoded if f"{path}/".startswith(f"{point.rstrip('/')}/"))
    return max(covering, key=len, default="/")
