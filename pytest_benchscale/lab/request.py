"""What a marked test asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_benchscale.topology.model import Topology

__all__ = ["LabRequest"]


@dataclass(frozen=True, eq=False, slots=True)
class LabRequest:
    """The parameter of a marked test: the same topology, backend and reset give the same object.

    `backend` may be `auto`. With `reset`, every test gets the lab as it was when first ready. `index` is
    unique in the session, but for requests that follow one another: a lab that is left as a failed test
    left it is followed by another lab.
    """

    topology: Topology
    backend: str
    index: int
    reset: bool = False

    def __str__(self) -> str:
        return f"lab {self.topology.name!r} on backend {self.backend!r}"
