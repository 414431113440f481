"""Backends in memory that write down, in a file, what is done to them: also from other processes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pytest_benchscale import BackendUnavailable
from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import MachineMissing, SubnetTaken
from tests.fake_backend import FakeBackend, Script

NAMES = (
    "fake",  # nothing is wrong with it
    "local",  # the same, in place of the real one: what `auto` chooses
    "docker",
    "podman",
    "absent",  # cannot be used here
    "failing",  # has no room for the node `server`
    "deserted",  # has not the machine that the node `server` is to use
    "slow",  # takes a minute for each node
    "slow-to-close",  # takes a second for deleting the node `server`
    "sticky",  # cannot delete the node `server`
    "pulling",  # has to fetch images first
    "talking",  # its nodes have said thirty lines
    "lasting",  # keeps and resets
    "sharing",  # the same, where labs share the addresses of one machine
    "once",  # keeps, but cannot reset the node `server`
)
LASTING = ("lasting", "sharing", "once")
STEP = "pulling it: {} of 2 layers"


class RecordingBackend(FakeBackend):
    events: ClassVar[Path]

    def __init__(self):
        super().__init__()
        self._recorded = None

    def record(self, event):
        with self.events.open("a") as file:
            file.write(f"{event}\n")

    async def probe(self):
        self.record(f"probe {self.name}")
        if self.name == "absent":
            raise BackendUnavailable(
                "absent", "its daemon does not answer", resolution="start the daemon"
            )
        return await super().probe()

    async def notes(self, topology):
        return ["memory limits are not enforced"] if topology.nodes[0].memory_mb else []

    async def open(self, plan):
        self._recorded = plan.name
        self.record(f"open {plan.name}")
        await super().open(plan)
        if self.name == "pulling":
            for layers in range(3):
                plan.progress(STEP.format(layers))

    async def create_network(self, plan):
        if self.shares_addresses and any(
            plan.subnet.overlaps(other.subnet) for other in self.script.networks.values()
        ):
            raise SubnetTaken(plan.name, plan.subnet, "it is there already")
        return await super().create_network(plan)

    async def create_node(self, plan):
        self.record(f"creating {plan.name}")
        return await super().create_node(plan)

    async def reset_node(self, name):
        self.record(f"resetting {name}")
        return await super().reset_node(name)

    async def keep(self, until: float | None = None):
        state = await super().keep(until)
        self.record(f"keep {self._recorded}")
        self._recorded = None
        return state

    async def adopt(self, plan, state):
        self._recorded = plan.name
        self.record(f"adopt {plan.name}")
        return await super().adopt(plan, state)

    async def delete_owned(self, owner, lab_id):
        self.record(f"remove {lab_id}")
        await super().delete_owned(owner, lab_id)

    def transport(self, name):
        self.record(f"entering {name}")
        return super().transport(name)

    async def delete_node(self, name):
        self.record(f"deleting {name}")
        await super().delete_node(name)

    async def logs(self, name, *, timestamps=False):
        if self.name == "talking":
            return "".join(f"{name} says {number}\n" for number in range(30))
        return await super().logs(name, timestamps=timestamps)

    async def close(self):
        await super().close()
        if self._recorded:
            self.record(f"close {self._recorded}")
            self._recorded = None


def register(events):
    """Register all of them; they write into the file `events`."""
    for name in NAMES:
        script = Script()
        if name == "failing":
            script.fail("create_node server", OSError(28, "no room"))
        elif name == "deserted":
            missing = MachineMissing("there is no machine 'test1'", node="server")
            script.fail("create_node server", missing)
        elif name == "slow":
            script.delay("create_node", 60)
        elif name == "slow-to-close":
            script.delay("delete_node server", 1)
        elif name == "sticky":
            script.fail("delete_node server", OSError(16, "stuck"))
        elif name == "once":
            script.fail("reset_node server", OSError(5, "its disk is gone"))
        members = {"name": name, "script": script, "events": events}
        if name in LASTING:
            members["capabilities"] = frozenset(Capability)
            members["shares_addresses"] = name == "sharing"
        registry.register(name, type("Recording", (RecordingBackend,), members))


def unregister():
    for name in NAMES:
        registry.unregister(name)


def only(name):
    """Leave one backend to choose from."""
    registry.names = lambda: (name,)
