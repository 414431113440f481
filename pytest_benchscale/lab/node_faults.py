"""The faults of one node, as methods of `Node` and of its twin without `await`."""

from __future__ import annotations

from pathlib import PurePath

from pytest_benchscale.lab.arguments import node_path
from pytest_benchscale.lab.clock import ClockOffset
from pytest_benchscale.lab.disk_full import DiskFull
from pytest_benchscale.lab.fault import Fault, faulty
from pytest_benchscale.lab.faults import Faults
from pytest_benchscale.lab.lifecycle import Lifecycle
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_states import Killed, Paused, Stopped
from pytest_benchscale.lab.portal import Portal, blocking, on_portal
from pytest_benchscale.lab.pressure import CpuPressure, MemoryPressure
from pytest_benchscale.topology.model import NodeSpec

__all__ = ["NodeFaults", "SyncNodeFaults"]


class NodeFaults:
    """What can be done to a node for the duration of an `async with` block.

    Each fault is checked on entering, to be there, and on leaving, to be gone: `FaultNotEffective`
    and `FaultNotHealed`. Each is written down in `lab.faults`.
    """

    _spec: NodeSpec
    _machine: Machine
    _lifecycle: Lifecycle
    _faults: Faults
    _portal: Portal

    def impair(
        self,
        /,
        *,
        network: str | None = None,
        preset: str | None = None,
        attest: bool = True,
        **figures: float | str,
    ) -> Fault:
        """Worsen what the node sends, on one network or all, for the duration of an `async with` block.

        Figures are those of the topology file, such as `latency_ms`, and win over the preset's; both lie
        over what is there already, and leaving the block brings that back. The measured proof, which
        `attest=False` leaves out, is of latency and loss, as far as a neighbour is up to measure with.

        Raises:
            LabError: an unknown figure, preset or network, or a value that cannot be.
            BackendUnavailable: on entering, when it takes sch_netem and the kernel has none.
            FaultNotEffective: on entering, when measuring shows no effect.
            FaultNotHealed: on leaving, when it shows that the effect is still there.
        """
        __tracebackhide__ = True
        return self._faults.impair(
            self._machine.name, network=network, preset=preset, attest=attest, figures=figures
        )

    @on_portal
    async def set_conditions(
        self,
        /,
        *,
        network: str | None = None,
        preset: str | None = None,
        **figures: float | str,
    ) -> None:
        """Lay figures over what the file declares for the node's links, on one network or all.

        They stay until they are set anew, or the lab is healed; without any, what is declared counts
        again. Impairments lie over them.

        Raises:
            LabError, BackendUnavailable: as `impair` says.
        """
        __tracebackhide__ = True
        await self._faults.set_conditions(
            self._machine.name, network=network, preset=preset, figures=figures
        )

    def paused(self) -> Fault:
        """Freeze everything in the node during the block."""
        return Paused(self._machine, self._lifecycle)

    def killed(self) -> Fault:
        """Cut the node's power at the block's beginning; start it again, with its links, at its end."""
        return Killed(self._machine, self._lifecycle)

    def stopped(self, *, grace: float = 10.0) -> Fault:
        """Stop the node in order at the block's beginning; start it again, with its links, at its end."""
        return Stopped(self._machine, self._lifecycle, grace)

    def disk_full(self, path: str | PurePath = "/tmp", *, leave_mb: int = 0) -> Fault:  # noqa: S108
        """Fill the file system of a directory in the node during the block, but for `leave_mb` MiB.

        Only what is the node's own can be filled: any disk of a virtual machine, elsewhere a tmpfs, such
        as `/tmp` on `local`, and `/dev/shm`. As root may still write what a file system keeps for root,
        that is filled, too.

        Raises:
            LabError: on entering: the file system is not the node's own.
            NotSupported: on entering: the machine is there already, and its disk not ours to fill.
        """
        __tracebackhide__ = True
        return DiskFull(self._machine, node_path(path), leave_mb)

    def memory_pressure(self, percent: float) -> Fault:
        """Hold a share of the node's memory, in percent of its `memory_mb`, during the block.

        Where the rest is too little for what runs in the node, the kernel may end a process there.

        Raises:
            LabError: on entering: the node declares no `memory_mb`.
            NotSupported: on entering: the backend does not hold nodes to it.
        """
        __tracebackhide__ = True
        return MemoryPressure(self._machine, self._spec.memory_mb, percent)

    def cpu_pressure(self, workers: int | None = None) -> Fault:
        """Run processes in the node that only compute during the block: as many as its `vcpus`, or `workers`.

        Without a limit that the backend holds the node to, each takes a processor of the machine.

        Raises:
            LabError: the node declares no `vcpus`, and `workers` says nothing.
        """
        __tracebackhide__ = True
        return CpuPressure(self._machine, self._spec.vcpus, workers)

    def clock(self, offset: float) -> Fault:
        """Set the node's clock ahead by `offset` seconds, or back, during the block; right again after it.

        Raises:
            NotSupported: on entering: the node has no clock of its own; only virtual machines have.
        """
        __tracebackhide__ = True
        return ClockOffset(self._machine, offset)


class SyncNodeFaults:
    """The same for a `with` block."""

    _portal: Portal

    impair = faulty(NodeFaults.impair)
    set_conditions = blocking(NodeFaults.set_conditions)
    paused = faulty(NodeFaults.paused)
    killed = faulty(NodeFaults.killed)
    stopped = faulty(NodeFaults.stopped)
    disk_full = faulty(NodeFaults.disk_full)
    memory_pressure = faulty(NodeFaults.memory_pressure)
    cpu_pressure = faulty(NodeFaults.cpu_pressure)
    clock = faulty(NodeFaults.clock)
