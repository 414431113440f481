"""The labs of a session."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import BackendUnavailable, LabError
from pytest_benchscale.lab.ledger import Ledger, Standing
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.pool import Pool
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.topology.model import Topology
from tests.fake_backend import Script, make_backend

Keep = Literal["never", "failed", "always"]
ONE = Topology.from_dict({"metadata": {"name": "one"}, "nodes": [{"name": "a"}]})
TWO = Topology.from_dict({"metadata": {"name": "two"}, "nodes": [{"name": "b"}]})


@pytest.fixture(autouse=True)
def _backends(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path))
    for name in ("fake", "other"):
        registry.register(name, make_backend(script, name))
    yield
    for name in ("fake", "other"):
        registry.unregister(name)


@pytest.fixture
def pool(portal: Portal) -> Iterator[Pool]:
    pool = Pool(portal, LabOptions())
    yield pool
    pool.close()


def test_a_lab_is_built_once_and_shared(pool: Pool, script: Script) -> None:
    lab = pool.acquire(ONE, "fake")
    assert lab.is_up
    assert pool.acquire(ONE, "fake") is lab is pool.current
    assert script.journal.count("create_node a") == 1


def test_an_equal_topology_is_the_same_lab(pool: Pool) -> None:
    equal = Topology.from_dict({"metadata": {"name": "one"}, "nodes": [{"name": "a"}]})
    assert pool.acquire(ONE, "fake") is pool.acquire(equal, "fake")


def test_one_lab_is_up_at_a_time(pool: Pool, script: Script) -> None:
    first = pool.acquire(ONE, "fake")
    second = pool.acquire(TWO, "fake")
    assert (first.is_up, second.is_up) == (False, True)
    assert script.journal.index("delete_node a") < script.journal.index("create_node b")
    third = pool.acquire(TWO, "other")
    assert (second.is_up, third.is_up, third.backend) == (False, True, "other")


def test_a_released_lab_is_built_anew(pool: Pool, script: Script) -> None:
    lab = pool.acquire(ONE, "fake")
    pool.release(lab)
    assert script.is_clean
    assert pool.current is None
    assert pool.acquire(ONE, "fake") is not lab


def test_closing_takes_down_what_is_up(pool: Pool, script: Script) -> None:
    pool.acquire(ONE, "fake")
    pool.close()
    pool.close()
    assert script.is_clean


def test_a_failed_build_is_not_tried_again(pool: Pool, script: Script) -> None:
    script.fail("create_node a", OSError("disk on fire"))
    with pytest.raises(LabError, match=r"create of node 'a' failed: disk on fire"):
        pool.acquire(ONE, "fake")
    assert script.is_clean
    script.journal.clear()
    with pytest.raises(LabError) as caught:
        pool.acquire(ONE, "fake")
    assert str(caught.value).count("\n") == 0
    assert "lab 'one' on 'fake' could not be brought up before: create of" in str(caught.value)
    assert not script.journal
    assert pool.acquire(TWO, "fake").is_up  # another one is not concerned


def test_errors_of_a_teardown_do_not_fail_the_next_lab(pool: Pool, script: Script) -> None:
    pool.acquire(ONE, "fake")
    script.fail("delete_node a", OSError("stuck"))
    assert pool.acquire(TWO, "fake").is_up
    (error,) = pool.teardown_errors
    assert "stuck" in str(error)
    script.failures.clear()


def test_auto_is_resolved(pool: Pool, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entry_points", dict)
    assert pool.acquire(ONE, "auto").backend == "fake"
    script.reasons = ["too blue"]
    with pytest.raises(BackendUnavailable, match="too blue"):
        pool.acquire(TWO, "auto")


@pytest.mark.parametrize(
    ("keep", "failed", "is_kept"),
    [
        ("never", True, False),
        ("failed", False, False),
        ("failed", True, True),
        ("always", False, True),
    ],
)
def test_a_lab_is_kept_when_that_was_asked_for(
    portal: Portal, script: Script, *, keep: Keep, failed: bool, is_kept: bool
) -> None:
    registry.register("fake", make_backend(script, capabilities=frozenset(Capability)))
    pool = Pool(portal, LabOptions(keep=keep))
    lab = pool.acquire(ONE, "fake")
    pool.release(lab, failed=failed)
    assert not lab.is_up
    assert [found.standing for found in Ledger().labs()] == [Standing.KEPT] * is_kept
    assert bool(pool.keeper.kept_lines()) is is_kept
    assert ("keep" in script.done) is is_kept
    assert script.is_clean is not is_kept


class Interrupted(BaseException):
    pass


def test_an_interrupted_build_leaves_nothing_and_may_be_tried_again(
    pool: Pool, script: Script
) -> None:
    script.fail("create_node a", Interrupted())
    with pytest.raises(Interrupted):
        pool.acquire(ONE, "fake")
    assert script.is_clean
    script.failures.clear()
    assert pool.acquire(ONE, "fake").is_up


def _press_ctrl_c_after(seconds: float) -> None:
    main = threading.main_thread().ident
    assert main
    threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)).start()


def test_ctrl_c_while_a_lab_comes_up_rolls_it_back(pool: Pool, script: Script) -> None:
    script.delay("create_node", 30)
    _press_ctrl_c_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire(ONE, "fake")
    assert script.cancelled == ["create_node a"]
    assert script.is_clean
    assert pool.current is None


def test_ctrl_c_while_a_lab_goes_down_lets_it_go_down(pool: Pool, script: Script) -> None:
    lab = pool.acquire(ONE, "fake")
    script.delay("delete_node", 0.3)
    _press_ctrl_c_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        pool.release(lab)
    assert script.is_clean
