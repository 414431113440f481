"""Who takes part: what this machine can run, and the talk with each contestant's worker."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Self

ROOT = Path(__file__).parent.parent

DEADLINE = 600.0
"""How long one request may take, in seconds; munet's 200 nodes take the longest."""

SYSTEM_PYTHON = "/usr/bin/python3"
"""The interpreter that imports a distribution's mininet."""

BOX = (
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("bash", "-c", 'mount -t sysfs sysfs /sys; "$@"; exit', "bash"),
)
"""Runs a peer where whatever it leaves behind ends with it; costs it nothing once it runs."""


class ContestantError(Exception):
    """A contestant ended or was too slow; the message is the last thing that it said."""


class Contestant:
    """One running worker. It ends when its standard input is closed."""

    def __init__(self, name: str, argv: Iterable[str]) -> None:
        self.name = name
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  (`close` closes it)
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            cwd=ROOT,
            bufsize=0,
        )

    def ask(self, verb: str, *arguments: object) -> list[float]:
        """Return the worker's answer: numbers, seconds unless the verb says otherwise.

        Raises:
            ContestantError: it failed, or did not answer before the deadline.
        """
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{' '.join(map(str, (verb, *arguments)))}\n".encode())
        except BrokenPipeError:
            raise ContestantError(self._last_words()) from None
        answer = json.loads(self._read_line())
        return [float(value) for value in answer]

    def _read_line(self) -> bytes:
        assert self.process.stdout
        line, deadline = b"", monotonic() + DEADLINE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(deadline - monotonic()):
                    raise ContestantError(f"no answer within {DEADLINE:g} s")
                received = os.read(self.process.stdout.fileno(), 65536)
                if not received:
                    raise ContestantError(self._last_words())
                line += received
        return line

    def _last_words(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it just ended")

    def close(self) -> None:
        """End the worker, in order if it lets us."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Field:
    """Everyone who can take part on this machine, and why the others cannot."""

    argv: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def start(self, *names: str) -> Iterator[dict[str, Contestant]]:
        """Run the workers of those contestants that are there, in the order given."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(Contestant(name, self.argv[name]))
                for name in names
                if name in self.argv
            }


def _worker(name: str, python: str = sys.executable) -> tuple[str, ...]:
    return (python, "-m", f"benchmarks.workers.{name}")


def _ours(_: Path) -> tuple[str, ...]:
    if not find_spec("pytest_benchscale"):
        raise ContestantError(f"not installed: pytest_benchscale, for {sys.executable}")
    return _worker("ours")


def _floor(directory: Path) -> tuple[str, ...]:
    _need_root()
    _need_commands("gcc")
    program, layers = directory / "floor", directory / "layers"
    layers.mkdir()
    compiler = ["gcc", "-O2", "-o", str(program), str(ROOT / "benchmarks/floor.c")]
    compiled = subprocess.run(compiler, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise ContestantError(f"not compiled: {compiled.stderr.strip()}")
    return (str(program), str(layers))


def _mininet(_: Path) -> tuple[str, ...]:
    _need_root()
    _need_commands("mnexec", "brctl", "unshare", SYSTEM_PYTHON)
    imported = [SYSTEM_PYTHON, "-c", "import mininet.net"]
    if subprocess.run(imported, capture_output=True, check=False).returncode:
        raise ContestantError(f"not installed: {SYSTEM_PYTHON} cannot import mininet")
    return (*BOX, *_worker("mininet", SYSTEM_PYTHON))


def _munet(_: Path) -> tuple[str, ...]:
    _need_root()
    _need_commands("unshare")
    if not find_spec("munet"):
        raise ContestantError(f"not installed: munet, for {sys.executable}")
    return (*BOX, *_worker("munet"))


def _nsenter(_: Path) -> tuple[str, ...]:
    _need_root()
    _need_commands("nsenter", "tar")
    return _worker("nsenter")


def _need_root() -> None:
    if os.geteuid():
        raise ContestantError("not available: it needs root")


def _need_commands(*names: str) -> None:
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        raise ContestantError(f"not installed: {', '.join(missing)}")


FINDERS: Mapping[str, Callable[[Path], tuple[str, ...]]] = {
    "ours": _ours,
    "floor": _floor,
    "mininet": _mininet,
    "munet": _munet,
    "nsenter": _nsenter,
}


def find(directory: Path, without: Container[str]) -> Field:
    """Find out who can take part; `directory` takes the compiled floor."""
    found = Field()
    for name, finder in FINDERS.items():
        if name in without:
            found.absent[name] = "left out: --without"
            continue
        try:
            found.argv[name] = finder(directory)
        except ContestantError as error:
            found.absent[name] = str(error)
    return found
