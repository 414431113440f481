"""Every built-in preset: its figures, measured one way on a network of its own."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest

from pytest_benchscale import Lab
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.presets import BUILT_IN
from tests.netem.measuring import Agent, Probes, Table, agents, next_port, rate_of

TOPOLOGY = (
    "networks:\n"
    + "".join(f"  - {{name: {name}, preset: {name}}}\n" for name in BUILT_IN)
    + "nodes: [{name: a}, {name: b}]\n"
)

pytestmark = [
    pytest.mark.topology(load_text(TOPOLOGY), backend="local"),
    pytest.mark.asyncio,
]

SECONDS = 15.0  # of probing, all presets at once
MOST = 50_000_000  # bit/s: what can be offered side by side on an emulated processor
QUIET = 3.5  # seconds: longer than the longest delay of a preset


def figures(name: str) -> tuple[float, float, float, float]:
    """Return latency and jitter in ms, loss in percent, and bit/s."""
    preset = BUILT_IN[name]
    return (
        preset.latency_ms or 0,
        preset.jitter_ms or 0,
        preset.packet_loss_percent or 0,
        1000 * (preset.bandwidth_kbps or 0),
    )


async def introduce(lab: Lab) -> None:
    """Let the nodes know each other's addresses of the link: to ask for them on a bad one takes its time."""
    for one, other in (("a", "b"), ("b", "a")):
        paths = [f"/sys/class/net/{lab[other].interfaces[name]}/address" for name in BUILT_IN]
        macs = (await lab[other].exec(["cat", *paths], check=True)).stdout.split()
        commands = [
            f"ip neigh replace {lab[other].addresses[name]} lladdr {mac} dev {lab[one].interfaces[name]}"
            for name, mac in zip(BUILT_IN, macs, strict=True)
        ]
        await lab[one].exec(
            " && ".join(f"{command} nud permanent" for command in commands), check=True
        )


def offered(name: str) -> float:
    """Return the bit/s of which more than the rate is left when the losses are gone."""
    _, _, loss, rate = figures(name)
    return 1.3 * rate / (1 - loss / 100)


async def listen(agent: Agent, lab: Lab, node: str, kind: str) -> list[dict[str, object]]:
    """Listen on each network; return where."""
    found: list[dict[str, object]] = []
    for name in BUILT_IN:
        where: dict[str, object] = {"address": str(lab[node].addresses[name]), "port": next_port()}
        await agent.ask("listen", name=name, kind=kind, **where)
        found.append(where)
    return found


def so_far_apart(name: str) -> dict[str, float]:
    """Return probes so far apart that jitter has none of them overtake another, or wait for it."""
    interval = max(0.05, 2.2 * figures(name)[1] / 1000)
    return {"interval": interval, "count": int(SECONDS / interval)}


async def probe_both_ways(lab: Lab, a: Agent, b: Agent) -> tuple[dict[str, Probes], ...]:
    """Send probes on all networks from each node to the other, at the same time."""
    names = list(BUILT_IN)
    ways = [
        (a, b, await listen(b, lab, "b", "probes")),
        (b, a, await listen(a, lab, "a", "probes")),
    ]
    for sender, receiver, places in ways:  # they find each other's addresses
        await sender.ask("probe", flows=[{**where, "count": 1, "interval": 0} for where in places])
        await receiver.ask("report", names=names, quiet=0)
    for _, receiver, _ in ways:
        await receiver.ask("report", names=names, quiet=QUIET)

    async def send(sender: Agent, places: list[dict[str, object]]) -> list[list[float]]:
        flows = [{**where, **so_far_apart(name)} for name, where in zip(names, places, strict=True)]
        times: list[list[float]] = await sender.ask("probe", flows=flows)
        return times

    sent = await asyncio.gather(*(send(sender, places) for sender, _, places in ways))
    found = []
    for times, (_, receiver, _) in zip(sent, ways, strict=True):
        arrived = await receiver.ask("report", names=names, quiet=QUIET)
        found.append(
            {
                name: Probes(each, [tuple(one) for one in arrivals])
                for name, each, arrivals in zip(names, times, arrived, strict=True)
            }
        )
    return tuple(found)


async def test_the_delays_and_losses_of_every_preset_are_as_declared(
    lab: Lab, table: Table
) -> None:
    await introduce(lab)
    async with agents(lab, "a", "b") as (a, b):
        there, back = await probe_both_ways(lab, a, b)
    wrong = []
    for name in BUILT_IN:
        latency, jitter, loss, _ = figures(name)
        sent = len(there[name].sent) + len(back[name].sent)
        delays = there[name].delays + back[name].delays
        median, lost = statistics.median(delays), 100 * (1 - len(delays) / sent)
        # Four times the standard error of a median of evenly spread delays, and of a share.
        slack = 4 * 1.25 * jitter / math.sqrt(3 * len(delays))
        losses = 4 * 100 * math.sqrt(loss / 100 * (1 - loss / 100) / sent)
        table.add(
            f"{name}: delay one way",
            f"{latency:g} ms",
            f"{median:.2f} ms",
            f"-{1 + slack:.1f}/+{2 + slack:.1f} ms",
        )
        table.add(f"{name}: loss of {sent}", f"{loss:g} %", f"{lost:.1f} %", f"{losses:.1f}")
        if not -1 - slack <= median - latency <= 2 + slack:
            wrong.append(f"{name}: {median:.2f} ms")
        if abs(lost - loss) > losses + 100 / sent:
            wrong.append(f"{name}: lost {lost:.1f} %")
        if jitter >= 10:  # below that, it is the emulated processor that is measured
            spread, expected = statistics.stdev(delays), jitter / math.sqrt(3)
            table.add(f"{name}: its spread", f"{expected:.1f} ms", f"{spread:.1f} ms", "40 %")
            if abs(spread / expected - 1) > 0.4:
                wrong.append(f"{name}: spread of {spread:.1f} ms")
    assert not wrong


async def test_the_rate_of_every_preset_is_as_declared(lab: Lab, table: Table) -> None:
    limited = [name for name in BUILT_IN if figures(name)[3]]
    slow = [name for name in limited if figures(name)[3] <= MOST]
    rates = {}
    await introduce(lab)
    async with agents(lab, "a", "b") as (a, b):
        places = dict(zip(BUILT_IN, await listen(b, lab, "b", "bulk"), strict=True))
        for names, seconds in [
            (slow, 5.0),
            *(([name], 1.5) for name in limited if name not in slow),
        ]:
            flows = [{**places[name], "rate": min(offered(name), 150e6)} for name in names]
            await a.ask("offer", flows=flows, seconds=seconds)
            arrived = await b.ask("report", names=names, quiet=QUIET if len(names) > 1 else 0.5)
            for name, bins in zip(names, arrived, strict=True):
                rates[name] = rate_of(bins, 0.5) * 1514 / 1472
    wrong = []
    for name in limited:
        declared, rate = figures(name)[3], rates[name]
        reachable = declared <= 100e6
        table.add(
            f"{name}: rate",
            f"{declared / 1e6:g} Mbit/s",
            f"{rate / 1e6:.2f} Mbit/s" + ("" if reachable else " of 150 offered"),
            "10 %" if reachable else "more than 100",
        )
        if abs(rate / declared - 1) > 0.1 if reachable else rate < 100e6:
            wrong.append(f"{name}: {rate / 1e6:.2f} Mbit/s")
    assert not wrong
