"""The project as a wheel, and the wheels that it needs, for a guest without a network."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.daemons.roots import cache_directory

__all__ = ["wheelhouse"]

ROOT = Path(__file__).resolve().parents[2]
_PYTHON = "3.11"  # of the guest's Debian
_PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (36, 34, 28, 17, 12, 5))
_BROUGHT = ("pip",)  # what the guest lacks to install them


def wheelhouse(target: Path) -> None:
    """Fill a directory with the project's wheel and all that it needs.

    What it needs is kept outside the project, and fetched again when the project needs something else.
    """
    shutil.copytree(_dependencies(), target, dirs_exist_ok=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(target), str(ROOT))


def _dependencies() -> Path:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *_BROUGHT]
    digest = hashlib.sha256(repr((needed, _PYTHON, _PLATFORMS)).encode()).hexdigest()[:12]
    kept = cache_directory() / "wheelhouses" / digest
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=kept.parent) as unfinished:
        place = Path(unfinished) / "wheels"
        platforms = [f"--platform={name}" for name in _PLATFORMS]
        options = ("--only-binary=:all:", f"--python-version={_PYTHON}", *platforms)
        _pip("download", "--dest", str(place), *options, *needed)
        place.rename(kept)
    return kept


def _pip(*arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
