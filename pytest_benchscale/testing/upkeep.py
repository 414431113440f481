"""What becomes of a lab that is up: led back to how it was, or kept and taken over by another process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import pytest

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Ledger, Standing
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.testing.base import (
    PAIR,
    count_sleeping,
    needs_python,
    requires,
    unique_seconds,
    until_sleeping,
)
from pytest_benchscale.testing.rates import RateContract

__all__ = ["UpkeepContract"]

AGAIN = """
metadata: {name: contract-reset}
networks:
  - {name: lan}
  - {name: wan}
nodes:
  - name: alpha
    env: {ROLE: first}
    setup: ["echo set up > /srv/base; chmod 640 /srv/base; ln -s base /srv/link"]
  - name: beta
    depends_on: [alpha]
"""

RESET_LIMITED = """
metadata: {name: contract-reset-rate}
network: {name: lan, conditions: {bandwidth_kbps: 10000}}
nodes:
  - {name: a, setup: ["true"]}
  - {name: b, network_conditions: {bandwidth_kbps: 0}}
"""

MAIN_COMMAND = """
metadata: {name: contract-reset-main}
nodes:
  - name: mortal
    command: [sh, -c, "echo $$ > /run/main.pid; trap 'exit 3' USR1; echo ready;
      while :; do sleep 0.05; done"]
    wait_for: [{log: ready}]
"""

LATE_WORD = """
metadata: {name: contract-reset-log}
nodes:
  - name: late
    command: [sh, -c, "echo begun; sleep 1; echo ready; sleep 3; echo more; sleep 1000"]
    wait_for: [{log: ready}]
"""

SUCCESSOR = """
import json, sys
from pathlib import Path
from time import monotonic
from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.ledger import Ledger
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal

lab_id, directory, steps = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
kept = next(one.kept for one in Ledger().labs() if one.lab_id == lab_id)
entry = Ledger().take(lab_id)
assert entry is not None and kept is not None, "the lab is not to be had"
facts = {"lab_id": lab_id}
with Portal() as portal:
    try:
        lab = portal.call_blocking(attach, entry, kept, portal, LabOptions())
    except BenchscaleError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(0)
    sync = lab.sync
    try:
        exec(steps)
    finally:
        portal.call_blocking(lab.down)
print(json.dumps(facts))
"""

USE = """
alpha, beta = sync["alpha"], sync["beta"]
facts["status"] = {name: str(node.status) for name, node in lab.nodes.items()}
facts["addresses"] = {name: str(node.address) for name, node in lab.nodes.items()}
facts["file"] = alpha.read_text("/srv/kept")
facts["processes"] = beta.exec("cat /proc/[0-9]*/cmdline 2>/dev/null; true").stdout.split(chr(0))
facts["reached"] = sync.reachability()
(directory / "sent").write_text("there and back")
beta.put(directory / "sent", "/srv/sent")
beta.get("/srv/sent", directory / "returned")
facts["returned"] = (directory / "returned").read_text()
facts["logs"] = isinstance(alpha.logs(), str)
"""

LIFE = """
beta = sync["beta"]
facts["before"] = str(lab["beta"].status)
beta.start()
facts["after"] = beta.exec("echo up").stdout
alpha = sync["alpha"]
alpha.restart()
facts["file"] = alpha.read_text("/srv/kept")
"""

RATE = """
import asyncio
from pytest_benchscale.testing.rates import RateContract

async def measure():
    async with RateContract()._sink(lab["b"]):
        await RateContract()._keeps_rate(lab["a"], lab["b"], 10000, rel=0.2)
asyncio.run(measure())
"""


class UpkeepContract(RateContract):
    """Reset, keep and take over."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _own_ledger(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Have labs written down in a ledger that nobody else looks at."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path_factory.mktemp("state")))
            yield

    @classmethod
    def open_resettable(cls, text: str) -> AbstractContextManager[Lab]:
        """Bring up a lab that can be led back."""
        options = LabOptions(resettable=True)
        return Lab.open_sync(cls.topology(text), backend=cls.backend, options=options)

    @pytest.fixture(scope="class")
    @classmethod
    def again(cls, _backend_under_test: None) -> Iterator[Lab | None]:
        """A lab to be led back again and again; None where the backend cannot do that."""
        if Capability.RESET not in cls().capabilities:
            yield None
            return
        with cls.open_resettable(AGAIN) as lab:
            yield lab

    async def _reset(self, lab: Lab | None) -> Lab:
        """Lead the shared lab back, or, where that cannot be done, find that out."""
        if lab is None:
            with self.open_resettable(AGAIN) as refused:
                await refused.reset()
                return refused
        await lab.reset()
        return lab

    # --- reset ---

    @requires(Capability.RESET)
    async def test_reset_gives_the_files_back(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        before = [await _files(node) for node in lab.nodes.values()]
        for node in lab.nodes.values():
            spoil = "echo more > /srv/more; echo intruder >> /etc/passwd; chmod 777 /srv; "
            await node.exec(f"{spoil} rm -rf /srv/base /srv/link /etc/profile", check=True)
        await lab.reset()
        assert [await _files(node) for node in lab.nodes.values()] == before
        assert await lab["alpha"].read_text("/srv/link") == "set up\n"
        assert (await lab["alpha"].exec("echo $ROLE; ls /srv")).stdout == "first\nbase\nlink\n"

    @requires(Capability.RESET)
    async def test_reset_ends_every_process(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        seconds = unique_seconds()
        for node in lab.nodes.values():
            await node.exec(f"sleep {seconds} & setsid sleep {seconds} &", check=True)
            await until_sleeping(node, seconds, 2)
        await lab.reset()
        for node in lab.nodes.values():
            assert await count_sleeping(node, seconds) == 0

    @requires(Capability.RESET)
    async def test_three_resets_in_a_row_lead_back_each(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        before = [await _files(node) for node in lab.nodes.values()]
        for number in range(3):
            for node in lab.nodes.values():
                await node.exec(f"test ! -e /srv/more && echo {number} > /srv/more", check=True)
            await lab.reset()
            assert [await _files(node) for node in lab.nodes.values()] == before

    @requires(Capability.RESET)
    async def test_reset_keeps_addresses_devices_and_macs(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        before = [(node.addresses, node.interfaces, await _macs(node)) for node in _nodes(lab)]
        await lab.reset()
        after = [(node.addresses, node.interfaces, await _macs(node)) for node in _nodes(lab)]
        assert after == before
        assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}

    @requires(Capability.RESET)
    @needs_python
    async def test_names_and_links_work_after_a_reset(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        alpha, beta = lab["alpha"], lab["beta"]
        for network in ("lan", "wan"):
            async with self.serve(alpha, 7600):
                assert await self.connects(beta, alpha.addresses[network], 7600)
                assert await self.connects(beta, "alpha", 7600)

    @requires(Capability.RESET, Capability.STOP, Capability.PAUSE)
    async def test_reset_starts_nodes_that_do_not_run(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        alpha, beta = lab["alpha"], lab["beta"]
        ends = ((alpha.stop, beta.kill), (alpha.pause, beta.stop), (alpha.kill, beta.pause))
        for one, other in ends:
            await one()
            await other()
            await lab.reset()
            for node in _nodes(lab):
                assert node.status is NodeStatus.RUNNING
                assert (await node.exec("echo up")).stdout == "up\n"

    @requires(Capability.RESET, Capability.PARTITIONS, Capability.CONDITIONS)
    async def test_reset_takes_faults_and_settings_back(self, again: Lab | None) -> None:
        lab = await self._reset(again)
        await lab["alpha"].set_conditions(bandwidth_kbps=100)
        async with lab.partition({"alpha"}, {"beta"}):
            assert await lab.reachability() == {"alpha": [], "beta": []}
            await lab.reset()
            assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}
        assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}

    @requires(Capability.RESET, Capability.CONDITIONS)
    @needs_python
    async def test_declared_rates_act_after_a_reset(self) -> None:
        with self.open_resettable(RESET_LIMITED) as lab:
            for _ in range(2):
                await lab.reset()
            async with self._sink(lab["b"]):
                await self._keeps_rate(lab["a"], lab["b"], 10000, rel=0.2)

    @requires(Capability.RESET, Capability.MAIN_COMMAND)
    async def test_reset_starts_the_main_command_anew(self) -> None:
        with self.open_resettable(MAIN_COMMAND) as lab:
            mortal = lab["mortal"]
            for _ in range(2):
                await mortal.exec("kill -USR1 $(cat /run/main.pid)")
                async with asyncio.timeout(20):
                    while mortal.sync.status is not NodeStatus.DEAD:
                        await asyncio.sleep(0.02)
                await lab.reset()
                assert mortal.status is NodeStatus.RUNNING
                assert (await mortal.exec("kill -0 $(cat /run/main.pid)")).ok

    @requires(Capability.RESET, Capability.MAIN_COMMAND)
    async def test_the_log_of_a_node_begins_anew_with_a_reset(self) -> None:
        with self.open_resettable(LATE_WORD) as lab:
            await lab["late"].wait_for_log("more", timeout=20)  # what was said before is old by now
            start = monotonic()
            await lab.reset()
            assert monotonic() - start >= 1  # it was the new word that was waited for
            assert (await lab["late"].logs()).split() == ["begun", "ready"]

    async def test_a_lab_that_does_not_remember_is_not_reset(self) -> None:
        if Capability.RESET not in self.capabilities:
            pytest.skip("the backend cannot reset")
        with self.open(PAIR) as lab:
            with pytest.raises(LabError, match="does not remember") as caught:
                await lab.reset()
            assert "resettable" in str(caught.value.resolution)

    # --- keep and take over ---

    @requires(Capability.KEEP)
    async def test_another_process_uses_a_kept_lab(self, tmp_path: Path) -> None:
        seconds = unique_seconds()
        with self.open(PAIR) as lab:
            lab_id, addresses = str(lab.lab_id), {node.name: node.address for node in _nodes(lab)}
            await lab["alpha"].write_text("/srv/kept", "kept")
            await lab["beta"].exec(f"setsid sleep {seconds} &", check=True)
            await until_sleeping(lab["beta"], seconds)
            await lab.keep(600)
            assert not lab.is_up
            with pytest.raises(LabError, match="not up"):
                await lab["alpha"].exec("true")
        assert _standing(lab_id) is Standing.KEPT
        facts = await _succeed(lab_id, tmp_path, USE)
        assert facts["status"] == {"alpha": "running", "beta": "running"}
        assert facts["addresses"] == {name: str(one) for name, one in addresses.items()}
        assert facts["file"] == "kept"
        assert seconds in str(facts["processes"])
        assert facts["reached"] == {"alpha": ["beta"], "beta": ["alpha"]}
        assert facts["returned"] == "there and back"
        assert facts["logs"]
        assert _standing(lab_id) is None

    @requires(Capability.KEEP, Capability.STOP)
    async def test_who_takes_a_lab_over_starts_its_stopped_nodes(self, tmp_path: Path) -> None:
        with self.open(PAIR) as lab:
            lab_id = str(lab.lab_id)
            await lab["alpha"].write_text("/srv/kept", "kept")
            await lab["alpha"].exec("sync")
            await lab["beta"].stop()
            await lab.keep(None)
        facts = await _succeed(lab_id, tmp_path, LIFE)
        assert facts == {"lab_id": lab_id, "before": "stopped", "after": "up\n", "file": "kept"}
        assert _standing(lab_id) is None

    @requires(Capability.KEEP, Capability.CONDITIONS)
    @needs_python
    async def test_declared_rates_act_in_a_lab_that_was_taken_over(self, tmp_path: Path) -> None:
        with self.open(RESET_LIMITED) as lab:
            lab_id = str(lab.lab_id)
            await lab.keep(600)
        assert await _succeed(lab_id, tmp_path, RATE) == {"lab_id": lab_id}


def _nodes(lab: Lab) -> list[Node]:
    return list(lab.nodes.values())


async def _files(node: Node) -> str:
    """Return what can be seen of the files that these tests change."""
    # The daemons of containers write the lines of /etc/hosts in any order.
    hosts = r"grep -E '\s(alpha|beta)$' /etc/hosts | sort -u"
    look = f"cat /etc/passwd; ls -ln /srv | sed 1d; stat -c '%a %u %n' /srv; ls /etc; {hosts}"
    return (await node.exec(look, check=True)).stdout


async def _macs(node: Node) -> str:
    look = "for d in /sys/class/net/eth*; do echo $d $(cat $d/address); done"
    return (await node.exec(look, check=True)).stdout


def _standing(lab_id: str) -> Standing | None:
    found = (one.standing for one in Ledger().labs() if one.lab_id == lab_id)
    return next(found, None)


async def _succeed(lab_id: str, directory: Path, steps: str) -> dict[str, object]:
    """Have another process take a lab over, do something in it and take it down; return what it saw."""
    argv = ("-c", SUCCESSOR, lab_id, str(directory), steps)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(300):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    facts: dict[str, object] = json.loads(stdout)
    return facts
