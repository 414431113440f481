"""What had to be reached."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.results import Results
from benchmarks.units import format_value


@dataclass(frozen=True)
class Target:
    """What our median of a row must not exceed.

    `over` is a row and contestants: then it is the ratio to the lowest of their medians. With `than`, it
    is that ratio over another target's.
    """

    row: str
    limit: float
    text: str
    over: tuple[str, ...] = ()
    than: Target | None = None

    def reached(self, results: Results) -> float | None:
        """Return what the target is about, None when something for it was not measured."""
        value = results.median(self.row, "ours")
        if self.over:
            row, *contestants = self.over
            medians = [results.median(row, contestant) for contestant in contestants]
            unit = min((each for each in medians if each), default=None)
            value = value / unit if value is not None and unit else None
        if self.than:
            other = self.than.reached(results)
            value = value / other if value is not None and other else None
        return value

    def verdict(self, results: Results) -> str | None:
        """Return the target with what was reached, None when the row was not measured."""
        if self.row not in results.rows:
            return None
        reached = self.reached(results)
        if reached is None:
            return f"target {self.text}: not measured"
        number = f"{reached:.2f}" if self.over else format_value(self.row, reached)
        return f"target {self.text}: {number}, {'met' if reached <= self.limit else 'NOT MET'}"


LOCAL = (
    Target("up.50", 3.0, "<= 3 x floor", ("up.50", "floor")),
    Target("up.50", 0.4, "<= 0.4 x mininet", ("up.50", "mininet")),
    Target("up.200", 5.0, "<= 5 x our own 50 nodes", ("up.50", "ours")),
    Target("down.50", 0.2, "<= 0.2 x mininet", ("down.50", "mininet")),
    Target("exec", 0.003, "<= 3 ms"),
    Target("copy.100MiB", 1.5, "<= 1.5 x floor", ("copy.100MiB", "floor")),
    Target("copy.files", 1.2, "<= 1.2 x tar", ("copy.files", "tar")),
    Target("limited.50", 1.15, "<= 1.15 x without", ("limited.50", "unlimited")),
    Target("cut.10", 0.02, "<= 20 ms"),
    Target("reset.10", 0.15, "<= 150 ms"),
    Target("memory.process", 60.0, "<= 60 MiB"),
    Target("memory.node", 4.0, "<= 4 MiB"),
    Target("startup.collect.added", 0.015, "<= 15 ms"),
)


def _over(row: str, limit: float, text: str, *peers: str) -> Target:
    return Target(row, limit, f"<= {limit:g} x {text}", (row, *peers))


def _footprint(backend: str) -> tuple[Target, ...]:
    return (
        Target(f"{backend}.memory.processes", 1.0, "<= 1 process"),
        Target(f"{backend}.memory.pool", 2.0, "<= 2 MiB"),
    )


DOCKER = (
    _over("docker.up.50", 0.8, "compose", "compose"),
    _over("docker.exec", 0.1, "docker SDK", "sdk"),
    _over("docker.exec.50", 0.1, "docker SDK", "sdk", "sdk-8"),
    _over("docker.exec.50.cold", 0.1, "docker SDK", "sdk", "sdk-8"),
    _over("docker.copy.files", 1.2, "tar", "tar"),
    _over("docker.copy.100MiB", 1.2, "best peer", "docker cp", "tar", "sdk"),
)


def _upkeep(backend: str) -> tuple[Target, ...]:
    resets = (
        Target(
            f"{backend}.reset.10.{kind}",
            0.5,
            "<= 0.5 x a rebuild",
            (f"{backend}.rebuild.10.{kind}", "ours"),
        )
        for kind in ("plain", "setup")
    )
    reuse = Target(
        f"{backend}.reuse.10", 0.1, "<= 0.1 x building it", (f"{backend}.build.10", "ours")
    )
    return (*resets, reuse)


LIBVIRT = (
    Target(
        "libvirt.up.1.first", 1.2, "<= 1.2 x what the guest needs", ("libvirt.up.1.first", "guest")
    ),
    Target("libvirt.up.1.again", 0.2, "<= 0.2 x its first boot", ("libvirt.up.1.first", "ours")),
    Target("libvirt.up.2.first", 1.5, "<= 1.5 x one machine", ("libvirt.up.1.first", "ours")),
    Target("libvirt.reset", 0.3, "<= 0.3 x a rebuild", ("libvirt.rebuild", "ours")),
)
SSH = (
    _over("ssh.exec", 1.2, "asyncssh", "asyncssh"),
    _over("ssh.copy.files", 1.2, "tar", "tar"),
    _over("ssh.copy.100MiB", 1.2, "best peer", "scp", "tar", "sftp"),
)


def _as_on_podman(target: Target) -> Target:
    """Return what podman has to reach: the same ratio as docker, or nearly."""
    row, *peers = (text.replace("docker.", "podman.", 1) for text in target.over)
    text = f"<= 1.2 x docker's ratio to {target.text.rpartition(' x ')[2]}"
    return replace(target, row=row, limit=1.2, text=text, over=(row, *peers), than=target)


TARGETS = (
    *LOCAL,
    *DOCKER,
    *_footprint("docker"),
    *(_as_on_podman(target) for target in DOCKER),
    *_footprint("podman"),
    *_upkeep("docker"),
    *_upkeep("podman"),
    *SSH,
    *LIBVIRT,
)
