"""The docker command line; and tar, piped through its `exec`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE, Popen, run
from time import perf_counter

from benchmarks.workers.peer import AT_ONCE, IDLE, LABEL, Peer, Setting


def docker(*arguments: str) -> None:
    run(["docker", *arguments], check=True, capture_output=True)


def pipe(sender: list[str], receiver: list[str]) -> None:
    """Run two commands, the output of the one being the input of the other."""
    with Popen(sender, stdout=PIPE) as packing:
        run(receiver, check=True, stdin=packing.stdout)
    if packing.returncode:
        raise RuntimeError(f"{sender[0]} ended with {packing.returncode}")


class Cli(Peer):
    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, AT_ONCE)
        self.label = f"--label={LABEL}={setting.run}"

    def create_network(self) -> None:
        kind = ["--internal"] if self.setting.internal else []
        docker("network", "create", *kind, self.label, self.setting.network)

    def destroy_network(self) -> None:
        docker("network", "rm", self.setting.network)

    def create_node(self, number: int) -> None:
        name = f"n{number}"
        options = ["--detach", f"--name={self.setting.container(number)}", f"--hostname={name}"]
        options += [f"--network={self.setting.network}", f"--network-alias={name}", self.label]
        docker("run", *options, self.setting.image, *IDLE)

    def destroy(self) -> None:
        names = (self.setting.container(number) for number in range(self.nodes))
        docker("rm", "--force", "--volumes", *names)  # removes many at once
        self.destroy_network()

    def run(self, node: int, argv: Iterable[str]) -> None:
        docker("exec", self.setting.container(node), *argv)

    async def put(self, local: str, remote: str) -> list[float]:
        start = perf_counter()
        docker("cp", local, f"{self.setting.container(0)}:{remote}")
        return [perf_counter() - start]

    async def get(self, remote: str, local: str) -> list[float]:
        start = perf_counter()
        docker("cp", f"{self.setting.container(0)}:{remote}", local)
        return [perf_counter() - start]

    async def tar_in(self, local: str, remote: str) -> list[float]:
        """Pipe a tar of `local` into the directory `remote`."""
        self.run(0, ("mkdir", remote))
        source, container = Path(local), self.setting.container(0)
        start = perf_counter()
        pipe(
            ["tar", "-C", str(source.parent), "-cf", "-", source.name],
            ["docker", "exec", "--interactive", container, "tar", "-C", remote, "-xf", "-"],
        )
        return [perf_counter() - start]

    async def tar_out(self, remote: str, local: str) -> list[float]:
        """Pipe a tar of the directory `remote` into the new directory `local`."""
        start = perf_counter()
        Path(local).mkdir()
        pipe(
            ["docker", "exec", self.setting.container(0), "tar", "-C", remote, "-cf", "-", "."],
            ["tar", "-C", local, "-xf", "-"],
        )
        return [perf_counter() - start]


if __name__ == "__main__":
    cli = Cli(Setting.parse())
    cli.main(cli.put, cli.get, cli.tar_in, cli.tar_out)
