"""Networks of Podman on a machine whose firewall sees what passes its bridges.

Where bridged packets go through the firewall (net.bridge.bridge-nf-call-iptables), one that forwards nothing
by default, as Docker's does, has nodes not hear each other. On ordinary networks Podman lets them, with rules
for every container; on internal ones it does nothing. One rule of ours for each network of the lab is enough.

Podman also has the machine hide, behind an address of its own, who sends a packet from an ordinary network
to any other one, and there that happens to what one node sends to another through a router between them.
Where there are routers, a rule for each two networks, before Podman's, exempts it. Each rule names its lab,
and goes with it.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from pytest_benchscale.topology.addressing import IpNetwork

__all__ = ["Exemptions", "can_exempt", "labs_with_rules", "remove_rules"]

_TOOLS = {4: "iptables", 6: "ip6tables"}
_PLACES = {"FORWARD": "filter", "POSTROUTING": "nat"}  # chains, and their tables
_SECONDS = 20
_NO_TABLE = 3  # what the tools end with where the kernel has no such table, or no IPv6
_PREFIX = "benchscale-"  # of the comment; the lab's id follows


def can_exempt() -> bool:
    """Return whether this process may change the firewall."""
    return os.geteuid() == 0 and all(map(shutil.which, _TOOLS.values()))


class Exemptions:
    """The rules for one lab; what they do blocks. `add` and `remove` may be called again."""

    def __init__(self, lab_id: str, subnets: Sequence[IpNetwork], *, routed: bool = False) -> None:
        """`routed`: nodes send packets from one of the subnets to another."""
        self._lab_id = lab_id
        self._subnets = tuple(subnets)
        self._routed = routed

    def add(self) -> None:
        """Put the rules in.

        Raises:
            OSError, subprocess.SubprocessError: the firewall cannot be changed; `stderr` says why.
        """
        for tool, *rule in self._rules():
            _change(tool, "-I", rule)

    def remove(self) -> None:
        """Take the rules out, also those that another process has put in for this lab.

        Raises:
            OSError, subprocess.SubprocessError: the firewall cannot be changed; `stderr` says why.
        """
        remove_rules(self._lab_id)

    def _rules(self) -> Iterator[tuple[str, ...]]:
        end = ("-m", "comment", "--comment", f"{_PREFIX}{self._lab_id}", "-j", "ACCEPT")
        for subnet in self._subnets:
            bridged = ("FORWARD", "-s", str(subnet), "-m", "physdev", "--physdev-is-bridged")
            yield (_TOOLS[subnet.version], *bridged, *end)
        for source, target in itertools.permutations(self._subnets if self._routed else (), 2):
            if source.version == target.version:
                words = ("POSTROUTING", "-s", str(source), "-d", str(target))
                yield (_TOOLS[source.version], *words, *end)


def labs_with_rules() -> list[str]:
    """Return the ids of the labs that have rules, one for each rule.

    Raises:
        OSError, subprocess.SubprocessError: the firewall cannot be looked at; `stderr` says why.
    """
    return [lab_id for _, lab_id, _ in _standing()]


def remove_rules(lab_id: str) -> None:
    """Take out the rules of one lab.

    Raises:
        OSError, subprocess.SubprocessError: the firewall cannot be changed; `stderr` says why.
    """
    for tool, lab, rule in _standing():
        if lab == lab_id:
            _change(tool, "-D", rule)


def _standing() -> list[tuple[str, str, list[str]]]:
    """Return the rules of all labs: the tool, the lab, and the rule as it would be deleted."""
    found = []
    for tool, chain in itertools.product(_TOOLS.values(), _PLACES):
        listing = _run(tool, "-S", [chain])
        if listing.returncode == _NO_TABLE:
            continue
        listing.check_returncode()
        for line in listing.stdout.splitlines():
            words = shlex.split(line) if line.startswith("-A ") and _PREFIX in line else []
            comment = words[words.index("--comment") + 1] if "--comment" in words else ""
            if comment.startswith(_PREFIX):
                found.append((tool, comment.removeprefix(_PREFIX), words[1:]))
    return found


def _change(tool: str, action: str, rule: Sequence[str]) -> None:
    _run(tool, action, rule).check_returncode()


def _run(tool: str, action: str, rule: Sequence[str]) -> subprocess.CompletedProcess[str]:
    chain, *_ = rule
    command = [tool, "-w", "-t", _PLACES[chain], action, *rule]
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
