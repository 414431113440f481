"""Sessions in processes of their own, so that a test can kill them, starve them or change their user."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_benchscale.lab.ledger import state_directory
from tests.machine import RUN

__all__ = ["NOBODY", "ROOT_OF_PROJECT", "interpreter_for_nobody", "start", "wait_for_output"]

ROOT_OF_PROJECT = Path(__file__).parents[2]
NOBODY = 65534


def start(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    python: str = sys.executable,
) -> subprocess.Popen[str]:
    """Start an interpreter that can import the project and what it needs."""
    paths = [str(ROOT_OF_PROJECT), *(path for path in sys.path if "site-packages" in path)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Another user cannot enter ours, and has his own in the home above.
        **({"BENCHSCALE_STATE_DIR": str(state_directory())} if user is None else {}),
        **RUN,
        **(env or {}),
    }
    return subprocess.Popen(
        [python, *argv],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def wait_for_output(process: subprocess.Popen[str], text: str, seconds: float = 30.0) -> str:
    """Read the process's output until it contains text; return all that was read."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    output = ""
    deadline = time.monotonic() + seconds
    while text not in output:
        left = deadline - time.monotonic()
        assert left > 0, f"no {text!r} within {seconds} s in:\n{output}"
        if select.select([fd], [], [], left)[0]:
            data = os.read(fd, 65536)
            assert data, f"it ended without {text!r}:\n{output}"
            output += data.decode()
    return output


def interpreter_for_nobody() -> str | None:
    """Return an interpreter that an ordinary user can run and that our dependencies fit.

    A virtual environment may lead into root's home, which nobody else may enter.
    """
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    question = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    for candidate in (sys.executable, f"/usr/bin/python{wanted}"):
        try:
            answer = subprocess.run(
                [candidate, "-c", question],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if answer.stdout.strip() == wanted:
            return candidate
    return None
