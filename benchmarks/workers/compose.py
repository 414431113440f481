"""Docker Compose v2: a project file, `up --detach` and `down`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from subprocess import run

from benchmarks.workers.peer import AT_ONCE, IDLE, Peer, Setting


class Compose(Peer):
    def __init__(self, setting: Setting, directory: Path) -> None:
        super().__init__(setting, AT_ONCE)
        self.file = directory / "compose.yaml"

    def project(self) -> str:
        """Return a project file; JSON is YAML, too."""
        services = {
            f"n{number}": {
                "image": self.setting.image,
                "command": list(IDLE),
                "hostname": f"n{number}",
                "networks": ["lan"],
                "labels": self.setting.labels,
            }
            for number in range(self.nodes)
        }
        networks = {"lan": {"internal": self.setting.internal, "labels": self.setting.labels}}
        return json.dumps({"services": services, "networks": networks})

    def compose(self, *arguments: str) -> None:
        program = self.setting.more[0]
        options = ["--project-name", self.setting.network, "--file", str(self.file)]
        run([program, *options, *arguments], check=True, capture_output=True)

    async def up(self, nodes: str) -> list[float]:
        self.nodes = int(nodes)
        self.file.write_text(self.project())
        return await super().up(nodes)

    def create(self) -> None:
        self.compose("up", "--detach")

    def destroy(self) -> None:
        # Nobody in there heeds SIGTERM; the others do not wait for it either.
        self.compose("down", "--timeout", "0", "--volumes")

    def run(self, node: int, argv: Iterable[str]) -> None:
        self.compose("exec", "--no-TTY", f"n{node}", *argv)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        Compose(Setting.parse(), Path(temporary)).main()
