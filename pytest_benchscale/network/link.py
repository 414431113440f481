"""What acts on one node's link to one network, and where it is applied.

Data only. The lab decides what shall act (`LinkState`); a backend says where a link can be worked on and
how its kernel is reached (`Link`); `render` turns the difference of two states into steps of traffic
control, which a `Conduit` carries out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pytest_benchscale.network.steps import Step
from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.topology.conditions import Figures

__all__ = ["NOTHING", "Conduit", "Link", "LinkState", "Selection", "Senders", "Side"]


class Side(StrEnum):
    """Which end of the link a device is: packets that a node sends arrive at one and leave by the other."""

    OUTSIDE = "outside"  # the machine's end: a veth on a bridge, the tap of a guest
    INSIDE = "inside"  # the node's own device


@dataclass(frozen=True, slots=True)
class Senders:
    """Other nodes, by what their packets carry: the MAC on this network, the addresses on all."""

    macs: frozenset[str] = frozenset()
    addresses: frozenset[IpAddress] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.macs or self.addresses)


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions for the packets to certain addresses only."""

    towards: frozenset[IpAddress]
    figures: Figures


@dataclass(frozen=True, slots=True)
class LinkState:
    """What acts on one link.

    `figures` act on what the node sends; the first of `selections` that has a packet's destination
    wins over them. Nothing of what `deaf_to` sends reaches the node by this link.
    """

    figures: Figures | None = None
    selections: tuple[Selection, ...] = ()
    deaf_to: Senders = Senders()


NOTHING = LinkState()


class Conduit(Protocol):
    """The way to the traffic control of one kernel's network namespace.

    Links with the same conduit (the same object) are changed together.
    """

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps in their order.

        What a call that failed has created, devices and `clsact`, it has taken away again.

        Raises:
            OSError: the kernel refused one; `filename` or the text says which.
            BenchscaleError: the namespace cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """Where conditions and cuts of a node's link to a network are applied.

    `spare` are the addresses of who commands the node over this very link, if anybody does: nothing
    ever acts on what the node sends there.
    """

    device: str
    side: Side
    conduit: Conduit
    spare: frozenset[IpAddress] = frozenset()
