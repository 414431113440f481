"""What acts on the links of the embedded backend when the kernel refuses a part of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.errors import LabError
from pytest_benchscale.lab import link_states
from pytest_benchscale.network import render
from pytest_benchscale.network.link import NOTHING, Link, LinkState, Senders
from pytest_benchscale.network.steps import DeleteDevice, Step
from pytest_benchscale.topology.conditions import Figures
from pytest_benchscale.topology.loader import load_text

PAIR = "{network: {name: lan, conditions: {bandwidth_kbps: 50000}}, nodes: [{name: a}, {name: b}]}"
ALL = {"a": ["b"], "b": ["a"]}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab.open(load_text(PAIR), backend="local") as lab:
        yield lab


async def test_what_a_failed_change_has_created_is_gone_again(lab: Lab) -> None:
    backend = lab._context.backend
    link = (await lab.portal.call(backend.links, "a"))["lan"]
    before = LinkState(Figures(bandwidth_kbps=50_000))
    await lab.portal.call(link.conduit.change, render.steps(link, before, NOTHING))
    there = LinkState(
        Figures(bandwidth_kbps=1000), deaf_to=Senders(frozenset({"02:00:00:00:00:01"}))
    )
    steps = render.steps(link, NOTHING, there)
    for _ in range(2):  # else the second would find the devices of the first
        with pytest.raises(OSError, match="nobody"):
            await lab.portal.call(link.conduit.change, [*steps, DeleteDevice("nobody")])
    await lab.portal.call(link.conduit.change, steps)
    await lab.portal.call(link.conduit.change, render.steps(link, there, before))


async def test_links_whose_change_failed_are_as_declared_again_when_the_fault_is_taken_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(link: Link, before: LinkState, after: LinkState) -> list[Step]:
        return [
            *render.steps(link, before, after),
            *([DeleteDevice("nobody")] if after.deaf_to else []),
        ]

    monkeypatch.setattr(link_states, "steps", steps)
    with pytest.raises(LabError, match=r"of '[ab]', '[ab]' could not be changed"):
        async with lab.partition({"a"}, {"b"}):
            pass
    assert await lab.reachability() == ALL
    monkeypatch.undo()
    async with lab.partition({"a"}, {"b"}):
        assert await lab.reachability() == {"a": [], "b": []}
    assert await lab.reachability() == ALL
