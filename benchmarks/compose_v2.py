"""Docker Compose v2 for this machine: the one that is installed, or one from Debian's packages.

Debian 12 has version 1 only. Debian 13's package holds one program that runs on both: it is fetched with
apt-get, from the archive that this machine uses, and kept in the cache. Nothing is installed and no setting
of apt is changed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contestants import ContestantError
from tests.daemons.roots import cache_directory

SUITE = "trixie"
PACKAGE = "docker-compose"
PROGRAM = Path("usr/libexec/docker/cli-plugins/docker-compose")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PLUGINS = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec", "~/.docker")


def find_compose() -> Path:
    """Return the program of Docker Compose, version 2 or later.

    Raises:
        ContestantError: it is not installed, and cannot be had.
    """
    for program in _installed():
        if version(program):
            return program
    return _fetch()


def version(program: Path) -> str:
    """Return a Compose's version, or nothing when it is version 1 or does not run here."""
    try:
        asked = subprocess.run(
            [program, "version", "--short"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    text = asked.stdout.strip().removeprefix("v")
    major = text.partition(".")[0]
    return text if major.isdigit() and int(major) >= 2 else ""


def _kept() -> Path:
    return cache_directory() / "compose" / SUITE / PACKAGE


def _installed() -> Iterator[Path]:
    found = shutil.which("docker-compose")
    if found:
        yield Path(found)
    for directory in PLUGINS:
        place = Path(directory).expanduser()
        below = "cli-plugins" if directory == "~/.docker" else "docker/cli-plugins"
        yield place / below / "docker-compose"
    yield _kept()


def _fetch() -> Path:
    """Take the program out of Debian's package, into the cache."""
    for needed in ("apt-get", "dpkg-deb"):
        if not shutil.which(needed):
            raise ContestantError(f"not installed: Docker Compose v2, and there is no {needed}")
    if not KEYRING.exists():
        raise ContestantError(f"not installed: Docker Compose v2, and there is no {KEYRING}")
    kept = _kept()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
        directory = Path(temporary)
        settings = _settings(directory)
        _run(["apt-get", *settings, "-qq", "update"], directory)
        _run(["apt-get", *settings, "-qq", "download", PACKAGE], directory)
        _run(["dpkg-deb", "-x", str(next(directory.glob("*.deb"))), "unpacked"], directory)
        program = directory / "unpacked" / PROGRAM
        if not version(program):
            raise ContestantError(f"the {PACKAGE} of Debian {SUITE} does not run here")
        program.replace(kept)
    return kept


def _settings(directory: Path) -> list[str]:
    """Return options that give apt a world of its own, with one source."""
    source = f"deb [signed-by={KEYRING}] {_archive(directory)} {SUITE} main\n"
    (directory / "sources.list").write_text(source)
    (directory / "status").touch()
    (directory / "lists/partial").mkdir(parents=True)
    (directory / "cache/archives/partial").mkdir(parents=True)
    settings = {
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": directory,
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "APT::Sandbox::User": "",  # the directory is readable to nobody else
        "Acquire::Languages": "none",
    }
    return [f"--option={key}={value}" for key, value in settings.items()]


def _archive(directory: Path) -> str:
    """Return where this machine has Debian's packages from."""
    sources = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)"]
    for line in _run(sources, directory).splitlines():
        match line.split(" ", 2):
            case ["Debian", "main", uri] if "security" not in uri:
                return uri
    raise ContestantError("not installed: Docker Compose v2, and apt has no archive of Debian's")


def _run(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "failed").splitlines()[-1]
        raise ContestantError(f"Docker Compose v2 cannot be had: {command[0]}: {last}")
    return done.stdout
