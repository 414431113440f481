"""The faults of one node, as methods of `Node` and of its twin without `await`."""

from __future__ import annotations

from pytest_benchscale.lab.fault import Fault, faulty
from pytest_benchscale.lab.lifecycle import Lifecycle
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_states import Killed, Paused, Stopped

__all__ = ["NodeFaults", "SyncNodeFaults"]


class NodeFaults:
    """What can be done to a node for the duration of an `async with` block.

    Each fault is checked on entering, to be there, and on leaving, to be gone: `FaultNotEffective`
    and `FaultNotHealed`. Each is written down in `lab.faults`.
    """

    _machine: Machine
    _lifecycle: Lifecycle

    def paused(self) -> Fault:
        """Freeze everything in the node during the block."""
        return Paused(self._machine, self._lifecycle)

    def killed(self) -> Fault:
        """Cut the node's power at the block's beginning; start it again, with its links, at its end."""
        return Killed(self._machine, self._lifecycle)

    def stopped(self, *, grace: float = 10.0) -> Fault:
        """Stop the node in order at the block's beginning; start it again, with its links, at its end."""
        return Stopped(self._machine, self._lifecycle, grace)


class SyncNodeFaults:
    """The same for a `with` block."""

    paused = faulty(NodeFaults.paused)
    killed = faulty(NodeFaults.killed)
    stopped = faulty(NodeFaults.stopped)
