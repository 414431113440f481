"""What the `wait_for_...` methods promise; that they fail with their node is in `lifecycle`."""

from __future__ import annotations

import asyncio

import pytest

from pytest_benchscale.errors import WaitTimeout
from pytest_benchscale.lab.node import Node
from pytest_benchscale.testing.base import Contract, needs_python

__all__ = ["WaitContract"]


class WaitContract(Contract):
    """Waiting for a node to be as wanted."""

    async def test_what_is_so_already_is_not_waited_for(self, node: Node, inside: str) -> None:
        async with asyncio.timeout(10):
            await node.wait_for_file(inside, timeout=60)
            await node.wait_for_exec("true", timeout=60)

    async def test_a_file_that_appears_is_seen(self, node: Node, inside: str) -> None:
        await node.exec(f"(sleep 0.3; touch '{inside}/now here') &", check=True)
        await node.wait_for_file(f"{inside}/now here", timeout=10)

    async def test_a_command_that_begins_to_succeed_is_seen(self, node: Node, inside: str) -> None:
        await node.exec(f"(sleep 0.3; touch {inside}/ready) &", check=True)
        await node.wait_for_exec(["test", "-e", f"{inside}/ready"], timeout=10)

    @needs_python
    async def test_a_port_that_begins_to_listen_is_seen(self, node: Node) -> None:
        for address in ("0.0.0.0", "127.0.0.1", "::"):  # noqa: S104  inside the node
            async with self.serve(node, 7100, address=address):
                await node.wait_for_port(7100, timeout=10)

    async def test_a_file_in_vain_shows_what_was_there(self, node: Node, inside: str) -> None:
        await node.write_text(f"{inside}/misspelt", "")
        with pytest.raises(WaitTimeout, match="misspelt") as caught:
            await node.wait_for_file(f"{inside}/spelt", timeout=2)
        assert (caught.value.node, caught.value.timeout) == (node.name, 2)

    async def test_a_command_in_vain_shows_its_last_output(self, node: Node) -> None:
        with pytest.raises(WaitTimeout, match="still starting") as caught:
            await node.wait_for_exec("echo still starting >&2; exit 9", timeout=2)
        assert "9" in caught.value.last_state

    async def test_a_command_that_hangs_does_not_outlast_the_wait(self, node: Node) -> None:
        async with asyncio.timeout(10):
            with pytest.raises(WaitTimeout):
                await node.wait_for_exec("sleep 10000", timeout=0.3)

    @needs_python
    async def test_a_port_in_vain_shows_the_ports_that_listen(self, node: Node) -> None:
        async with self.serve(node, 7101):
            with pytest.raises(WaitTimeout, match="7101") as caught:
                await node.wait_for_port(7102, timeout=2)
        assert "7101" in caught.value.last_state

    async def test_a_log_line_in_vain_is_a_timeout(self, node: Node) -> None:
        with pytest.raises(WaitTimeout, match="no such line"):
            await node.wait_for_log("no such line", timeout=0.3)
