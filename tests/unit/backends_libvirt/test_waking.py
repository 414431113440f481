"""Telling a guest that goes on what time it is, against a real ssh server and real commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytest_benchscale.backends.libvirt.readiness import Guest
from pytest_benchscale.backends.libvirt.waking import until_awake
from pytest_benchscale.errors import LabError, NodeDied
from tests.unit.backends_libvirt.guests import FakeGuest, can_run

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not can_run(), reason="this machine lets nobody make a mount namespace"),
]

_DATE = '#!/bin/sh\necho "$@" >{root}/date\nexit {code}\n'


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeGuest]:
    """A machine whose `date` only writes down what it is told."""
    fake = FakeGuest(tmp_path)
    _date(fake, 0)
    yield fake
    await fake.power_off()


def _date(fake: FakeGuest, code: int) -> None:
    script = fake.root / "bin" / "date"
    script.write_text(_DATE.format(root=fake.root, code=code))
    script.chmod(0o755)


async def _wakes(fake: FakeGuest, *, is_there: bool, seconds: float = 20.0) -> None:
    async def died() -> str:
        if not fake._servers:
            return "it was ended"
        await asyncio.Event().wait()
        return ""

    transport = fake.transport()
    try:
        guest = Guest("web", "127.0.0.1", fake.port, transport, died)
        await until_awake(guest, seconds, is_there=is_there)
    finally:
        await transport.aclose()


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_guest_is_told_the_time_when_it_asks(fake: FakeGuest, is_there: bool) -> None:
    await fake.listen()
    await _wakes(fake, is_there=is_there)
    words = (fake.root / "date").read_text().split()
    assert words[:2] == ["-u", "-s"]
    assert abs(float(words[2].removeprefix("@")) - time.time()) < 5


async def test_a_clock_that_cannot_be_set_is_told(fake: FakeGuest) -> None:
    _date(fake, 1)
    await fake.listen()
    with pytest.raises(LabError, match="the clock of node 'web' cannot be set"):
        await _wakes(fake, is_there=True)


async def test_a_guest_that_ends_is_told(fake: FakeGuest) -> None:
    with pytest.raises(NodeDied, match="it was ended"):
        await _wakes(fake, is_there=False)
