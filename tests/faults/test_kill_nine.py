"""Sessions that are killed at random moments leave nothing; `scripts/kill-nine` kills hundreds."""

from __future__ import annotations

import random

import pytest

from tests.faults.killing import PHASES, kill_sessions

SEED = random.SystemRandom().randrange(10**6)


@pytest.mark.parametrize(
    ("backend", "kills", "within"),
    [
        ("local", 6, None),
        pytest.param("docker", 3, None, marks=pytest.mark.daemon("docker")),
        pytest.param("podman", 3, None, marks=pytest.mark.daemon("podman")),
        # A machine takes long to boot, and seconds when it was ready once; it is there before it has.
        pytest.param("libvirt", 2, {"create": 6.0}, marks=pytest.mark.daemon("libvirt")),
    ],
)
def test_killed_sessions_leave_nothing_and_harm_nobody(
    backend: str, kills: int, within: dict[str, float] | None
) -> None:
    figures = kill_sessions(backend, kills, SEED, phases=tuple(within or PHASES), within=within)
    print(figures)
    assert figures.left == []
    assert figures.harmed == []
