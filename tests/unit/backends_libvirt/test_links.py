"""What is made beside the taps of guests: names that the kernel takes, and that are nobody else's."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from pytest_benchscale.backends.libvirt.naming import Names
from pytest_benchscale.network.link import NOTHING, Link, LinkState, Selection, Side
from pytest_benchscale.network.render import steps
from pytest_benchscale.network.steps import AddMirror, Step
from pytest_benchscale.topology.conditions import Figures

SLOW = Figures(bandwidth_kbps=1000)
STATE = LinkState(
    SLOW, tuple(Selection(frozenset({IPv4Address(address)}), SLOW) for address in range(1, 6))
)


class Nowhere:
    async def change(self, steps: Sequence[Step]) -> None:
        """Not to be asked."""
        raise AssertionError


def test_no_two_links_share_a_device() -> None:
    numbers = {str(number): number for number in range(100)}
    made = []
    for lab in ("00000000", "d9c8e25d", "15bd984b"):
        names = Names(lab, "", numbers, {})
        for node in numbers:
            for interface in range(1, 5):
                link = Link(names.tap(node, interface), Side.OUTSIDE, Nowhere())
                made += [
                    step.device
                    for step in steps(link, NOTHING, STATE)
                    if isinstance(step, AddMirror)
                ]
    assert len(made) == len(set(made)) == 3 * 100 * 4 * 6
    assert max(map(len, made)) <= 15
