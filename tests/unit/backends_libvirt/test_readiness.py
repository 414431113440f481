"""Waiting for a guest, against a real ssh server and real commands."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from pytest_benchscale.backends.libvirt import knocking, readiness
from pytest_benchscale.backends.libvirt.console import Console
from pytest_benchscale.backends.libvirt.readiness import Deadlines, Guest, Ready, until_ready
from pytest_benchscale.errors import GuestWarning, LabError, NodeDied
from pytest_benchscale.transports.shell import shells
from tests.unit.backends_libvirt import guests
from tests.unit.backends_libvirt.guests import FakeGuest

pytestmark = pytest.mark.skipif(
    not guests.can_run(), reason="this machine lets us make no mount namespace"
)

QUICK = Deadlines(address=0.3, ssh=0.3, cloud_init=0.4, refused=0)
PATIENT = Deadlines(address=10, ssh=10, cloud_init=20, refused=0)


class Machine:
    """A fake guest, and what a backend knows of it."""

    def __init__(self, fake: FakeGuest, console: Path) -> None:
        self.fake = fake
        self.console = console
        self.said: list[str] = []
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.transport = fake.transport()
        self.guest = Guest(
            "web", "127.0.0.1", fake.port, self.transport, self._died, Console(console)
        )

    async def _died(self) -> str:
        return await asyncio.shield(self.death)

    async def ready(self, deadlines: Deadlines = PATIENT, **changes: Any) -> Ready:
        guest = replace(self.guest, **changes)
        return await asyncio.wait_for(
            until_ready(guest, deadlines=deadlines, progress=self.said.append), 30
        )


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    for module in (readiness, knocking):
        monkeypatch.setattr(module, "POLL", 0.05)
    monkeypatch.setattr(shells, "_LONGEST_PAUSE", 0.02)  # until a lost connection counts as such
    machine = Machine(FakeGuest(tmp_path), tmp_path / "console")
    try:
        yield machine
    finally:
        await machine.transport.aclose()
        await machine.fake.power_off()


async def test_a_guest_is_ready_when_cloud_init_has_finished(machine: Machine) -> None:
    task = asyncio.create_task(machine.ready())
    await asyncio.sleep(0.3)
    assert machine.said == ["web: boots", "web: has its address, 127.0.0.1; waits for its sshd"]
    await machine.fake.listen()
    machine.fake.status("init")
    while "web: cloud-init: init" not in machine.said:
        await asyncio.sleep(0.01)
    machine.fake.status("modules-final")
    while "web: cloud-init: modules-final" not in machine.said:
        await asyncio.sleep(0.01)
    assert not task.done()
    machine.fake.finish()
    finished = time.monotonic()
    ready = await task
    assert time.monotonic() - finished < 0.5
    assert ready == Ready((machine.fake.root / "boot_id").read_text().strip(), "done")
    assert machine.said[-1].startswith("web: is ready after ")


async def test_a_guest_without_bash_is_waited_for_too(machine: Machine) -> None:
    machine.fake.hide("bash")
    await machine.fake.listen()
    machine.fake.status("init")
    task = asyncio.create_task(machine.ready(addresses=(ip_address("127.0.0.1"),)))
    while "web: cloud-init: init" not in machine.said:
        await asyncio.sleep(0.01)
    machine.fake.finish()
    assert (await task).cloud_init == "done"


async def test_a_guest_without_cloud_init_is_ready_at_once(machine: Machine) -> None:
    await machine.fake.listen()
    assert (await machine.ready(addresses=(ip_address("10.99.0.1"),))).cloud_init == "none"


async def test_cloud_init_may_be_switched_off(machine: Machine) -> None:
    (machine.fake.root / "run" / "cloud-init").mkdir()
    (machine.fake.root / "run" / "cloud-init" / "disabled").touch()
    await machine.fake.listen()
    assert (await machine.ready()).cloud_init == "disabled"
    with pytest.raises(LabError, match="its image has cloud-init switched off") as caught:
        await machine.ready(needs_cloud_init=True)
    assert caught.value.node == "web"
    assert caught.value.step == "cloud-init"


async def test_the_addresses_must_be_there(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.finish()
    there = (ip_address("127.0.0.1"), ip_address("::1"))
    assert (await machine.ready(addresses=there)).cloud_init == "done"
    task = asyncio.create_task(machine.ready(addresses=(*there, ip_address("10.99.0.1"))))
    while "web: waits for 10.99.0.1" not in machine.said:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    short = replace(PATIENT, cloud_init=1)
    with pytest.raises(LabError, match=r"it had not taken its address fd00:99::1"):
        await machine.ready(short, addresses=(*there, ip_address("fd00:99::1")))


async def test_complaints_of_cloud_init_are_a_warning(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.finish(init={"recoverable_errors": {"WARNING": ["no such key: pakcages"]}})
    with pytest.warns(GuestWarning, match="web.*\ninit: WARNING: no such key: pakcages"):
        ready = await machine.ready()
    assert ready.cloud_init == "degraded"


async def test_an_error_of_cloud_init_fails_at_once_with_its_stage_and_output(
    machine: Machine,
) -> None:
    await machine.fake.listen()
    machine.fake.status("init")
    machine.console.write_text("[  1.0] \x1b[31mlate words\x1b[0m\r\n")
    (machine.fake.root / "log" / "cloud-init-output.log").write_text("E: no package nginxx\n")
    task = asyncio.create_task(machine.ready())
    while "web: cloud-init: init" not in machine.said:
        await asyncio.sleep(0.01)
    failure = {"errors": ["('package_update_upgrade_install', CalledProcessError())"]}
    machine.fake.status("modules-final", modules_config=failure)
    happened = time.monotonic()
    with pytest.raises(LabError) as caught:
        await task
    assert time.monotonic() - happened < 2
    assert "cloud-init failed: modules-config: ('package_update" in caught.value.brief
    assert "E: no package nginxx" in str(caught.value)
    assert "the console's end:\n[  1.0] late words" in str(caught.value)


async def test_an_error_of_the_last_stage_is_an_error_too(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.finish(modules_final={"errors": ["('scripts_user', RuntimeError())"]})
    with pytest.raises(LabError, match=r"cloud-init failed: modules-final: .'scripts_user'"):
        await machine.ready()


async def test_a_stage_that_crashed_is_noticed(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.status("modules-config")
    machine.fake.system("degraded", failed=True)
    with pytest.raises(LabError, match="crashed, cloud-init was in its stage modules-config"):
        await machine.ready()


async def test_a_full_disk_in_the_guest_is_named(machine: Machine) -> None:
    await machine.fake.listen()
    log = machine.fake.root / "log" / "cloud-init-output.log"
    log.write_text("dpkg: error: No space left on device\n")
    machine.fake.status("modules-final", modules_config={"errors": ["('apt', OSError(28))"]})
    with pytest.raises(LabError, match="is full: modules-config") as caught:
        await machine.ready()
    assert "`disk_gb`" in str(caught.value.resolution)


async def test_cloud_init_that_takes_too_long_is_told_with_its_stage(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.status("modules-final")
    with pytest.raises(LabError, match=r"within 1 s: cloud-init was in its stage modules-final"):
        await machine.ready(replace(PATIENT, cloud_init=1))


async def test_a_guest_without_an_answer_is_an_error_with_the_consoles_end(
    machine: Machine,
) -> None:
    machine.console.write_text("[FAILED] Failed to start networking\n" + "more\n" * 30)
    with pytest.raises(LabError, match=r"no login by ssh succeeded within 0\.3 s") as caught:
        await machine.ready(QUICK)  # loopback answers: the port is closed
    assert "no sshd listens yet" in str(caught.value)
    assert "earlier on its console:\n[FAILED] Failed to start networking" in str(caught.value)


async def test_a_guest_that_never_answers_has_no_address(machine: Machine) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # its queue is full, and who connects gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        with pytest.raises(LabError, match=r"never came to its address 127\.0\.0\.1") as caught:
            await machine.ready(QUICK, port=silent.getsockname()[1])
    assert caught.value.step == "address"
    assert "nothing has answered yet" in str(caught.value)


async def test_a_refused_login_is_an_error_of_its_own(machine: Machine) -> None:
    machine.fake.authorized = None
    await machine.fake.listen()
    with pytest.raises(LabError, match=r"does not let us in: .* refused the login for 'root'"):
        await machine.ready()


async def test_a_login_may_be_refused_until_our_key_is_there(machine: Machine) -> None:
    key, machine.fake.authorized = machine.fake.authorized, None
    await machine.fake.listen()
    task = asyncio.create_task(machine.ready(replace(PATIENT, refused=10)))
    await asyncio.sleep(0.3)
    assert not task.done()
    machine.fake.authorized = key
    assert (await task).cloud_init == "none"


async def test_another_host_key_than_ours_is_an_error(machine: Machine) -> None:
    machine.fake.shown_key = asyncssh.generate_private_key("ssh-ed25519")
    await machine.fake.listen()
    with pytest.raises(LabError, match="shows a host key that is not that of the key"):
        await machine.ready()


async def test_a_reboot_during_setup_is_waited_for(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.status("modules-final")
    task = asyncio.create_task(machine.ready())
    while "web: cloud-init: modules-final" not in machine.said:
        await asyncio.sleep(0.01)
    await machine.fake.power_off()
    machine.fake.power_on()
    await asyncio.sleep(0.3)
    machine.fake.finish()
    await machine.fake.listen()
    ready = await task
    assert ready.reboots == 1
    assert ready.boot_id == (machine.fake.root / "boot_id").read_text().strip()


@pytest.mark.parametrize("is_through", [True, False])
async def test_a_guest_that_is_going_down_is_not_ready_and_has_not_failed(
    machine: Machine, is_through: bool
) -> None:
    await machine.fake.listen()
    machine.fake.system("stopping", failed=True)  # the unit of cloud-init was ended
    if is_through:
        machine.fake.finish()
    else:
        machine.fake.status("modules-final")
    task = asyncio.create_task(machine.ready())
    while "web: goes down" not in machine.said:
        await asyncio.sleep(0.01)
    await machine.fake.power_off()
    machine.fake.power_on()
    machine.fake.system("running")
    machine.fake.finish()
    await machine.fake.listen()
    assert (await task).reboots == 1


async def test_a_guest_that_reboots_again_and_again_is_given_up(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_MOST_REBOOTS", 0)
    task = asyncio.create_task(machine.ready())
    while not task.done():
        machine.fake.status("modules-final")
        await machine.fake.listen()
        said = len(machine.said)
        while not task.done() and "web: cloud-init: modules-final" not in machine.said[said:]:
            await asyncio.sleep(0.01)
        await machine.fake.power_off()
        machine.fake.power_on()
    with pytest.raises(LabError, match="booted 2 times and was not ready in between"):
        await task


@pytest.mark.parametrize("is_inside", [False, True])
async def test_a_domain_that_ends_is_told_at_once(machine: Machine, is_inside: bool) -> None:
    machine.console.write_text("its last words\n")
    if is_inside:
        await machine.fake.listen()
        machine.fake.status("init")
    task = asyncio.create_task(machine.ready())
    await asyncio.sleep(0.3)
    machine.death.set_result("it crashed")
    begun = time.monotonic()
    with pytest.raises(NodeDied, match="'web' died: it crashed") as caught:
        await task
    assert time.monotonic() - begun < 0.5
    assert "its last words" in str(caught.value)


async def test_a_panic_on_the_console_ends_the_wait(machine: Machine) -> None:
    task = asyncio.create_task(machine.ready())
    await asyncio.sleep(0.1)
    machine.console.write_text("[ 2.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n")
    begun = time.monotonic()
    with pytest.raises(NodeDied, match="its kernel panicked: VFS: Unable to mount root fs"):
        await task
    assert time.monotonic() - begun < 1


async def test_a_cancelled_wait_leaves_no_task_behind(machine: Machine) -> None:
    await machine.fake.listen()
    machine.fake.status("init")
    before = len(asyncio.all_tasks())
    task = asyncio.create_task(machine.ready())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await machine.transport.aclose()
    await machine.fake.power_off()
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) <= before


async def test_deadlines_grow_with_the_scale() -> None:
    assert Deadlines(1, 2, 3, 4).scaled(2.5) == Deadlines(2.5, 5, 7.5, 10)
