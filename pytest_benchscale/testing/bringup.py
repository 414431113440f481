"""What bringing a lab up and taking it down promises: order, roll-back, and nothing left."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from pytest_benchscale.backends.base import Capability, NodeStatus
from pytest_benchscale.errors import BenchscaleError, LabError, NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.testing.base import PAIR, Contract, unique_seconds, until_sleeping

__all__ = ["BringUpContract"]

DEMANDS = {
    Capability.INTERNET: "{network: {name: lan, internet: true}, nodes: [{name: alpha}]}",
    Capability.DISK_SIZE: "nodes: [{name: alpha, disk_gb: 10}]",
    Capability.CLOUD_INIT: "nodes: [{name: alpha, cloud_init: {packages: [hello]}}]",
    Capability.EXISTING: "nodes: [{name: alpha, existing: machine, address: 192.0.2.7}]",
    Capability.PUBLISHED_PORTS: "nodes: [{name: alpha, ports: ['8080:80']}]",
    Capability.VOLUMES: "nodes: [{name: alpha, volumes: ['./data:/srv']}]",
    Capability.MAIN_COMMAND: "nodes: [{name: alpha, command: [sleep, '1000']}]",
}
"""Topologies that need a capability, for the backends without."""


class BringUpContract(Contract):
    """Up, down, and looking things up in between."""

    # --- the lab ---

    async def test_nodes_and_networks_are_found_by_name(self, pair: Lab) -> None:
        assert pair.backend == self.backend
        assert list(pair.nodes) == ["alpha", "beta"]
        assert list(pair.networks) == ["lan"]
        assert pair["beta"] is pair.nodes["beta"]
        assert pair["beta"].name == "beta"
        assert pair["beta"].backend == self.backend
        assert pair["alpha"].spec is pair.topology.node("alpha")

    async def test_a_misspelt_name_is_an_error_that_knows_better(self, pair: Lab) -> None:
        with pytest.raises(LabError, match="alpha"):
            pair["alhpa"]

    async def test_an_idle_node_needs_no_command(self, pair: Lab) -> None:
        assert {node.status for node in pair.nodes.values()} == {NodeStatus.RUNNING}
        assert isinstance(await pair["alpha"].logs(), str)

    async def test_a_lab_opens_in_the_loop_of_the_test_too(self) -> None:
        async with self.open_in_loop(PAIR) as lab:
            assert (await lab["alpha"].exec("echo $ROLE")).stdout == "first\n"

    def _sync_calls(self, lab: Lab, directory: Path) -> None:
        alpha = lab.sync["alpha"]
        assert alpha.exec(["echo", "hello"]).stdout == "hello\n"
        alpha.write_text("/srv/file", "text")
        alpha.get("/srv/file", directory / "file")
        assert (directory / "file").read_text() == alpha.read_text("/srv/file") == "text"
        with alpha.process("echo up; cat") as process:
            process.wait_for_line("up", timeout=10)

    async def test_every_call_has_a_twin_without_await(self, pair: Lab, tmp_path: Path) -> None:
        self._sync_calls(pair, tmp_path)

    # --- deploy, setup, wait_for, depends_on ---

    async def test_deploy_comes_before_setup_and_setup_before_wait_for(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "tool").write_text("#!/bin/sh\necho deployed > /srv/$1\n")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "file").write_text("in a tree")
        text = """
            nodes:
              - name: alpha
                deploy:
                  - {src: ./tool, dest: /usr/local/bin/tool, mode: "0755"}
                  - {src: ./tree, dest: /srv/tree}
                setup:
                  - tool first
                  - cat /srv/first /srv/tree/file > /srv/second
                  - (sleep 0.3; mv /srv/second /srv/third) &
                wait_for:
                  - {file: /srv/third}
                  - {exec: test ! -e /srv/second}
            """
        with self.open(text, tmp_path) as lab:
            assert await lab["alpha"].read_text("/srv/third") == "deployed\nin a tree"

    async def test_a_node_starts_when_what_it_depends_on_is_ready(self) -> None:
        text = """
            nodes:
              - {name: app, depends_on: [db], setup: ["true"]}
              - name: db
                setup: ["(sleep 0.5; echo > /srv/ready) &"]
                wait_for: [{file: /srv/ready}]
            """
        with self.open(text) as lab:
            started = {command.node: command.started for command in lab.history}
        assert started["app"] - started["db"] >= 0.5

    async def test_nodes_that_do_not_depend_on_each_other_come_up_together(self) -> None:
        count, command = self.side_by_side, f"sleep {self.slack}"
        nodes = ", ".join(f"{{name: node{n}, setup: [{command}]}}" for n in range(count))
        with self.open(f"nodes: [{nodes}]") as lab:
            began = [one.started for one in lab.history if one.command_line == command]
            assert len(began) == count
            assert max(began) - min(began) < self.slack, "one had ended before another began"

    async def test_env_reaches_setup(self) -> None:
        text = "nodes: [{name: alpha, env: {ROLE: 1}, setup: ['echo $ROLE > /srv/role']}]"
        with self.open(text) as lab:
            assert await lab["alpha"].read_text("/srv/role") == "1\n"

    # --- failures ---

    async def test_a_topology_that_needs_what_the_backend_lacks_is_refused(
        self, tmp_path: Path
    ) -> None:
        for capability, text in DEMANDS.items():
            if capability in self.capabilities:
                continue
            with pytest.raises(NotSupported) as caught, self.open(text, tmp_path):
                pytest.fail("the lab came up")
            assert caught.value.backend == self.backend
            assert caught.value.capability == capability

    async def test_a_failing_setup_names_node_and_step_and_shows_the_output(self) -> None:
        text = """
            nodes:
              - {name: good}
              - {name: bad, setup: ["true", "echo out 4242; echo no such thing 2323 >&2; exit 7"]}
            """
        with pytest.raises(LabError) as caught, self.open(text):
            pytest.fail("the lab came up")
        error = caught.value
        assert error.node == "bad"
        assert error.step
        assert "setup" in error.step
        for part in ("bad", "out 4242", "no such thing 2323", "exit code 7"):
            assert part in str(error)

    async def test_a_failing_wait_for_names_node_and_step_and_shows_the_last_state(self) -> None:
        text = """
            nodes:
              - {name: bad, wait_for: [{exec: "echo still 4242 >&2; false", timeout: 0.3}]}
            """
        with pytest.raises(BenchscaleError, match="still 4242") as caught, self.open(text):
            pytest.fail("the lab came up")
        assert "bad" in str(caught.value)

    async def test_a_failing_deploy_names_node_and_file(self, tmp_path: Path) -> None:
        text = "nodes: [{name: bad, deploy: [{src: ./no-such-file, dest: /srv/file}]}]"
        with pytest.raises(LabError, match="no-such-file") as caught, self.open(text, tmp_path):
            pytest.fail("the lab came up")
        assert caught.value.node == "bad"

    async def test_a_failed_lab_leaves_nothing_behind(self) -> None:
        seconds = unique_seconds()
        text = f"""
            nodes:
              - {{name: good, setup: ["sleep {seconds} &"]}}
              - {{name: bad, depends_on: [good], setup: [exit 7]}}
            """
        with pytest.raises(LabError), self.open(text):
            pytest.fail("the lab came up")
        assert _sleeping_on_host(seconds) == 0

    async def test_a_lab_that_is_down_leaves_nothing_behind(self) -> None:
        seconds = unique_seconds()
        with self.open(PAIR) as lab:
            for node in lab.nodes.values():
                await node.exec(f"sleep {seconds} & setsid sleep {seconds} &", check=True)
                await until_sleeping(node, seconds, 2)
            alpha = lab["alpha"]
        assert _sleeping_on_host(seconds) == 0
        with pytest.raises(BenchscaleError, match=r"alpha|lab"):
            await alpha.exec("true")

    async def test_taking_down_does_not_wait_for_commands(self) -> None:
        with self.open(PAIR) as lab:
            await lab["alpha"].exec("trap '' TERM; sleep 10000 &", check=True)
            started = time.monotonic()
        assert time.monotonic() - started < 15

    async def test_taking_down_twice_is_no_error(self) -> None:
        async with self.open_in_loop(PAIR) as lab:
            await lab.down()
            await lab.down()


def _sleeping_on_host(seconds: str) -> int:
    """Count the processes `sleep SECONDS` of this machine, where it can be seen."""
    if sys.platform != "linux":
        return 0
    count = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += cmdline.read_bytes().split(b"\0").count(seconds.encode())
        except OSError:
            continue  # it ended meanwhile
    return count
