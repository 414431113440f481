"""Making the root file systems of the test images, and keeping them in a cache."""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.daemons.images import ROOTS, Root, root_hash

__all__ = ["BuildError", "cache_directory", "tarball"]

# With it, usr-is-merged is enough and usrmerge is not installed.
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"


class BuildError(Exception):
    """A root file system cannot be made here; the text says why."""


def cache_directory() -> Path:
    """Return the directory that is kept from run to run, outside the project."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pytest-benchscale"


def tarball(name: str) -> Path:
    """Return the tarball of a root file system; made when it is not in the cache.

    Raises:
        BuildError: it cannot be made on this machine.
    """
    path = cache_directory() / "roots" / f"{name}-{root_hash(name)}.tar"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    root = ROOTS[name]
    base = tarball(root.base) if root.base else None
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=path.parent) as directory:
        unfinished = Path(directory) / "root.tar"
        if base and root.picks:
            _pick(root, base, unfinished)
        else:
            _install(root, base, unfinished)
        unfinished.replace(path)
    return path


def _install(root: Root, base: Path | None, target: Path) -> None:
    """Install packages into a new Debian, or on top of a root file system."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise BuildError("mmdebstrap is not installed")
    options = [f"--dpkgopt=path-exclude={path}" for path in _excluded(root)]
    if base:
        # mmdebstrap has just written its own file of that name, with all that is to be excluded; and an
        # ordinary user can make no devices.
        unpack = (
            f'tar -C "$1" --exclude=99mmdebstrap --exclude="./dev/*" -xf {shlex.quote(str(base))}'
        )
        options += ["--variant=custom", f"--setup-hook={unpack}"]
    else:
        options += ["--variant=minbase", f"--hook-dir={_MERGED_USR}"]
    options += [f"--setup-hook={hook}" for hook in root.prepare]
    options += [f"--customize-hook={hook}" for hook in root.finish]
    packages = f"--include={','.join(root.packages)}"
    result = subprocess.run(
        [program, "--quiet", "--skip=cleanup/run", *options, packages, root.suite, str(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    if result.returncode != 0:
        raise BuildError("mmdebstrap failed: " + "\n".join(result.stderr.splitlines()[-12:]))


def _excluded(root: Root) -> tuple[str, ...]:
    """Return the paths that dpkg does not unpack, also those that the base was made without."""
    return (*root.exclude, *(_excluded(ROOTS[root.base]) if root.base else ()))


def _pick(root: Root, base: Path, target: Path) -> None:
    """Take over what matches a pattern, and point links elsewhere."""
    with tarfile.open(base) as source, tarfile.open(target, "w") as picked:
        for member in source:
            path = member.name.removeprefix("./")
            if not any(fnmatch.fnmatchcase(path, pattern) for pattern in root.picks):
                continue
            member.linkname = root.links.get(path, member.linkname)
            picked.addfile(member, source.extractfile(member) if member.isreg() else None)
