"""Whether a change of conditions can be seen: measured before and after, and held against the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_benchscale.lab.link_wishes import Attachment, LinkWishes
from pytest_benchscale.lab.witness import Pair, Witness
from pytest_benchscale.network.matrix import Matrix, PathMeasure
from pytest_benchscale.topology.conditions import Figures

__all__ = ["Comparison"]

_LEAST_MS = 2.0  # a change of a round trip that is smaller is not told from noise
_ROUNDS = 5  # requests that show a latency
_MOST_REQUESTS = 300  # a loss that is too rare to be seen in so many is not looked for


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the figures make of a pair's way: ms of a round trip, and the loss (0 to 1) of one way."""

    rtt_ms: float
    jitter_ms: float
    loss: float


class Comparison:
    """Looks at ways, each a pair of nodes and the network between them, before and after changes."""

    def __init__(
        self, states: LinkWishes, witness: Witness, ways: Mapping[Pair, str | None]
    ) -> None:
        self._states = states
        self._witness = witness
        self._ways = ways
        self._before: dict[Pair, PathMeasure] = {}
        self._at_first: dict[Pair, _Expected] = {}
        self._lately: dict[Pair, _Expected] = {}
        self.matrix: Matrix | None = None

    async def begin(self) -> None:
        """Measure how it is without the change. Ways that do not work are not looked at later."""
        measured = await self._measure(dict(self._ways), _ROUNDS)
        self._before = {pair: one for pair, one in measured.items() if one.rtts_ms}
        self._at_first = {pair: self._expected(pair) for pair in self._before}
        self._lately = dict(self._at_first)

    async def trouble(self) -> str | None:
        """Measure again: return what is more like it was lately than like it shall be now, in words."""
        ways = {
            pair: self._ways[pair]
            for pair in self._before
            if all(map(self._witness.is_up, pair)) and not self._states.is_cut(pair, None)
        }
        if not ways:
            return None
        now = {pair: self._expected(pair) for pair in ways}
        losses = [one.loss for one in (*now.values(), *self._lately.values())]
        count = max(_ROUNDS, *(min(_MOST_REQUESTS, _requests_for(loss)) for loss in losses))
        measured = await self._measure(ways, count)
        lately, self._lately = self._lately, now
        for pair, one in measured.items():
            first = self._at_first[pair]
            found = _late(self._before[pair], first, one, lately[pair], now[pair])
            found = found or _lossy(one, lately[pair].loss, now[pair].loss)
            if found:
                return f"from {pair[0]!r} to {pair[1]!r}, {found}"
        return None

    async def _measure(
        self, ways: Mapping[Pair, str | None], count: int
    ) -> dict[Pair, PathMeasure]:
        found: dict[Pair, PathMeasure] = {}
        nodes: dict[str, None] = {}
        for network in dict.fromkeys(ways.values()):
            pairs = [pair for pair, way in ways.items() if way == network]
            slowest = max(one.rtt_ms + 3 * one.jitter_ms for one in map(self._expected, pairs))
            matrix = await self._witness.compare(pairs, network, count, slowest / 1000)
            nodes.update(dict.fromkeys(matrix.nodes))
            found.update({(one.source, one.destination): one for one in matrix})
        self.matrix = Matrix(tuple(nodes), found.values())
        return found

    def _expected(self, pair: Pair) -> _Expected:
        there, back = self._figures(pair), self._figures(pair[::-1])
        return _Expected(
            (there.latency_ms or 0) + (back.latency_ms or 0),
            (there.jitter_ms or 0) + (back.jitter_ms or 0),
            (there.packet_loss_percent or 0) / 100,
        )

    def _figures(self, pair: Pair) -> Figures:
        sender, receiver = pair
        links = self._states.attachments(sender)
        network = self._ways.get(pair) or self._ways.get(pair[::-1])
        used = network if network in links else next(iter(links))
        return self._states.figures(Attachment(sender, str(used)), receiver)


def _late(
    before: PathMeasure,
    first: _Expected,
    measured: PathMeasure,
    lately: _Expected,
    now: _Expected,
) -> str | None:
    """Compare the fastest round trip, which a busy machine does not make slower."""
    if not measured.rtts_ms:
        return None
    change = now.rtt_ms - lately.rtt_ms
    if abs(change) < max(_LEAST_MS, 2 * max(now.jitter_ms, lately.jitter_ms)):
        return None
    fastest = min(measured.rtts_ms)
    idle = min(before.rtts_ms) - first.rtt_ms
    if abs(fastest - idle - now.rtt_ms) <= abs(fastest - idle - lately.rtt_ms):
        return None
    return (
        f"a round trip takes {fastest:.1f} ms: that is {lately.rtt_ms:g} ms of latency as before, "
        f"not {now.rtt_ms:g} ms"
    )


def _lossy(measured: PathMeasure, lately: float, now: float) -> str | None:
    arrived = measured.answered if measured.delivered is None else measured.delivered
    if now == lately or measured.sent < _requests_for(max(now, lately)):
        return None
    lost = 1 - arrived / measured.sent
    if abs(lost - now) <= abs(lost - lately):
        return None
    return f"{lost:.0%} of {measured.sent} packets were lost, not {now:.0%}"


def _requests_for(loss: float) -> int:
    """Return in how many requests a loss shows nearly for certain: else once in 1,000 times."""
    if loss <= 0:
        return 0
    return 1 if loss >= 1 else math.ceil(math.log(0.001) / math.log(1 - loss))
