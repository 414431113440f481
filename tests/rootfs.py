"""A root file system small enough to make in a test: a shell, a few tools and their libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["make_rootfs"]

_TOOLS = ("sh", "cat", "ls", "mkdir", "sleep", "id", "rm", "env", "readlink", "touch")


def make_rootfs(directory: Path) -> Path:
    """Fill a directory with a root file system and return it."""
    for name in ("bin", "etc", "root", "srv"):
        (directory / name).mkdir(parents=True)
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/:/bin/sh\n"
    )
    (directory / "etc/os-release").write_text("ID=tiny\n")
    for tool in _TOOLS:
        program = shutil.which(tool)
        assert program, f"{tool} is not on PATH"
        shutil.copy(program, directory / "bin" / tool)
        linked = subprocess.run(
            ["ldd", program], capture_output=True, text=True, check=False
        ).stdout
        for library in re.findall(r"(/\S+)", linked):
            target = directory / library.lstrip("/")
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
    return directory
