"""Giving back everything a lab was given. One step that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio

from pytest_benchscale.errors import LabError
from pytest_benchscale.lab.bringup import Created
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.registration import Registration

__all__ = ["TearDown"]

DELETE_DEADLINE = 30.0
"""Seconds, times the scale, for the deletion of one node or network."""


class TearDown:
    """One attempt to remove what was created. What is gone is struck off `created`.

    Runs shielded, each deletion with a deadline; `errors` holds what went wrong.
    """

    def __init__(
        self, context: LabContext, created: Created, registration: Registration | None
    ) -> None:
        self._context = context
        self._backend = context.backend
        self._created = created
        self._registration = registration
        self.errors: list[Exception] = []

    async def run(self, machines: Iterable[Machine]) -> None:
        """Delete all nodes at once, then all networks, then let go of the backend."""
        created = self._created
        with anyio.CancelScope(shield=True):
            await self._all(self._node, tuple(created.nodes))
            for machine in machines:
                await self.attempt(machine.let_go, f"leaving node {machine.name!r}")
            await self._all(self._network, tuple(created.networks))
            if created.opened and await self.attempt(self._backend.close, "closing the backend"):
                created.opened = False
            if self._registration is not None and not created:
                await self.attempt(self._registration.end, "striking the lab off the ledger")

    async def _all(
        self, delete: Callable[[str], Coroutine[Any, Any, None]], names: Iterable[str]
    ) -> None:
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(delete, name)

    async def _node(self, name: str) -> None:
        with self._context.doing(name, "delete"):
            if await self.attempt(
                lambda: self._backend.delete_node(name), f"deleting node {name!r}", node=name
            ):
                del self._created.nodes[name]

    async def _network(self, name: str) -> None:
        with self._context.doing(None, f"delete network {name}"):
            if await self.attempt(
                lambda: self._backend.delete_network(name), f"deleting network {name!r}"
            ):
                del self._created.networks[name]

    async def attempt(
        self,
        work: Callable[[], Coroutine[Any, Any, object]],
        step: str,
        *,
        node: str | None = None,
    ) -> bool:
        """Do one step; return whether it succeeded. What went wrong is remembered."""
        seconds = self._context.scaled(DELETE_DEADLINE)
        try:
            with anyio.move_on_after(seconds):
                await work()
                return True
        except Exception as exc:  # noqa: BLE001  whatever it is, the rest must go on; it is reported
            exc.add_note(f"while {step}")
            self.errors.append(exc)
            return False
        self.errors.append(
            LabError(f"{step} was not done after {seconds:g} s", node=node, step=step)
        )
        return False
