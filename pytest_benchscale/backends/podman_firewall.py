"""Routers on a machine whose firewall sees what passes its bridges, with Podman.

Podman has the machine hide, behind an address of its own, who sends a packet to any other network. Where
bridged packets go through the firewall (net.bridge.bridge-nf-call-iptables), that also happens to what
one node sends to another through a router between them. A rule for each two networks of the lab, before
Podman's, exempts it; it names the lab, and goes with it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from pytest_benchscale.topology.addressing import IpNetwork

__all__ = ["Exemptions", "can_exempt"]

_TOOLS = {4: "iptables", 6: "ip6tables"}
_SECONDS = 20


def can_exempt() -> bool:
    """Return whether this process may change the firewall."""
    return os.geteuid() == 0 and all(map(shutil.which, _TOOLS.values()))


class Exemptions:
    """The rules for one lab; what they do blocks. `add` and `remove` may be called again."""

    def __init__(self, lab_id: str, subnets: Sequence[IpNetwork]) -> None:
        self._comment = f"benchscale-{lab_id}"
        self._subnets = tuple(subnets)
        self._added: list[tuple[str, ...]] = []

    def add(self) -> None:
        """Put the rules in.

        Raises:
            OSError, subprocess.SubprocessError: the firewall cannot be changed; `stderr` says why.
        """
        for tool, *rule in self._rules():
            self._added.append((tool, *rule))
            _change(tool, "-I", rule)

    def remove(self) -> None:
        """Take the rules out.

        Raises:
            OSError, subprocess.SubprocessError: the firewall cannot be changed; `stderr` says why.
        """
        while self._added:
            tool, *rule = self._added[-1]
            if _holds(tool, rule):
                _change(tool, "-D", rule)
            self._added.pop()

    def _rules(self) -> Iterator[tuple[str, ...]]:
        for source, target in itertools.permutations(self._subnets, 2):
            if source.version == target.version:
                words = ("POSTROUTING", "-s", str(source), "-d", str(target))
                comment = ("-m", "comment", "--comment", self._comment)
                yield (_TOOLS[source.version], *words, *comment, "-j", "ACCEPT")


def _holds(tool: str, rule: Sequence[str]) -> bool:
    return _run(tool, "-C", rule).returncode == 0


def _change(tool: str, action: str, rule: Sequence[str]) -> None:
    _run(tool, action, rule).check_returncode()


def _run(tool: str, action: str, rule: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [tool, "-w", "-t", "nat", action, *rule]
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
