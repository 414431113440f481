"""What a node cannot see and cannot reach: the host's and the other nodes' own things."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.testing.base import Contract, count_sleeping, unique_seconds, until_sleeping

__all__ = ["IsolationContract"]

PLACES = ["/", "/etc", "/home", "/opt", "/root", "/srv", "/tmp", "/usr/local/bin", "/var/tmp"]  # noqa: S108


class IsolationContract(Contract):
    """Isolation."""

    async def test_a_node_does_not_see_the_processes_of_the_host(self, pair: Lab) -> None:
        seconds = unique_seconds()
        with subprocess.Popen(["sleep", seconds]) as process:
            try:
                assert await count_sleeping(pair["alpha"], seconds) == 0
            finally:
                process.kill()

    async def test_a_node_does_not_see_the_processes_of_another(self, pair: Lab) -> None:
        seconds = unique_seconds()
        await pair["alpha"].exec(f"sleep {seconds} &", check=True)
        await until_sleeping(pair["alpha"], seconds)
        assert await count_sleeping(pair["beta"], seconds) == 0

    async def test_a_node_cannot_signal_what_is_outside(self, pair: Lab) -> None:
        with subprocess.Popen(["sleep", unique_seconds()]) as process:
            try:
                # 0 asks whether the signal could be sent. A process of the node's own by that
                # number would be a coincidence.
                assert (await pair["alpha"].exec("kill -0 $$")).ok
                assert not (await pair["alpha"].exec(f"kill -0 {process.pid}")).ok
                assert process.poll() is None
            finally:
                process.kill()

    async def test_a_file_written_in_a_node_is_in_no_other_place(self, pair: Lab) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        for place in PLACES:
            path = f"{place}/contract-{uuid4()}"
            await alpha.write_text(path, "of alpha")
            assert (await alpha.exec(["cat", path])).stdout == "of alpha"
            assert not _exists_here(path), "it reached the host"
            assert not (await beta.exec(["test", "-e", path])).ok, "it reached another node"

    async def test_a_file_changed_in_a_node_stays_as_it_was_elsewhere(self, pair: Lab) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        line = f"# contract-{uuid4()}"
        await alpha.exec(f"echo '{line}' >> /etc/passwd", check=True)
        assert line in await alpha.read_text("/etc/passwd")
        assert line not in Path("/etc/passwd").read_text(), "it reached the host"
        assert line not in await beta.read_text("/etc/passwd"), "it reached another node"

    async def test_a_file_removed_in_a_node_stays_elsewhere(self, pair: Lab) -> None:
        alpha, beta = pair["alpha"], pair["beta"]
        accounts = await alpha.read_bytes("/etc/group")
        await alpha.exec(["rm", "/etc/group"], check=True)
        try:
            assert not (await alpha.exec(["test", "-e", "/etc/group"])).ok
            assert Path("/etc/group").exists(), "it was removed from the host"
            assert await beta.read_bytes("/etc/group"), "it was removed from another node"
        finally:
            await alpha.write_bytes("/etc/group", accounts)

    async def test_a_file_of_the_hosts_tmp_is_not_in_the_nodes(self, pair: Lab) -> None:
        path = Path(f"/tmp/contract-{uuid4()}")  # noqa: S108  exactly this one is meant
        path.touch(exist_ok=False)
        try:
            assert not (await pair["alpha"].exec(["test", "-e", str(path)])).ok
        finally:
            path.unlink()

    async def test_the_host_name_is_the_name_of_the_node(self, pair: Lab) -> None:
        for name, node in pair.nodes.items():
            assert (await node.exec(["uname", "-n"])).stdout == f"{name}\n"

    async def test_a_node_has_a_usable_system(self, pair: Lab) -> None:
        script = """
            set -e
            test -n "$PATH" && test -n "$HOME" && test -w "$HOME"
            echo discarded > /dev/null
            test "$(head -c 16 /dev/urandom | wc -c)" -eq 16
            test "$(head -c 16 /dev/zero | tr -d '\\0' | wc -c)" -eq 0
            touch /tmp/usable /run/usable /dev/shm/usable
            test -d /proc/$$
            test -r /proc/self/status
            test -e /sys/class/net/lo
            """
        result = await pair["alpha"].exec(script)
        assert result.ok, result.stderr


def _exists_here(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:
        return False  # where we cannot look, nothing of ours was written
