"""Everything that `local` promises, once more, for somebody without privileges."""

from __future__ import annotations

from pathlib import Path

from tests.faults.sessions import NOBODY, ROOT_OF_PROJECT, start
from tests.machine import Snapshot

_CONTRACT = ("test_local.py", "test_local_roots.py", "test_local_upkeep.py", "test_local_kept.py")


def test_the_contract_holds_for_an_ordinary_user(
    workplace: Path, as_nobody: str, nothing_left: Snapshot
) -> None:
    """The same tests in a process of an ordinary user; theirs is the user namespace, too."""
    contract = ROOT_OF_PROJECT / "tests/contract"
    argv = ["-m", "pytest", "-q", "-c", str(ROOT_OF_PROJECT / "pyproject.toml")]
    argv += [f"--rootdir={ROOT_OF_PROJECT}", f"--basetemp={workplace}/tests"]
    argv += ["-p", "no:cacheprovider", "-p", "no:randomly"]
    argv += [str(contract / name) for name in _CONTRACT]
    process = start(argv, cwd=workplace, user=NOBODY, python=as_nobody)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-8000:]
    assert " passed" in output
