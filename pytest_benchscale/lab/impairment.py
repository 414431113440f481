"""Links made worse while the test runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import FaultNotEffective, FaultNotHealed, LabError
from pytest_benchscale.lab.arguments import did_you_mean
from pytest_benchscale.lab.comparison import Comparison
from pytest_benchscale.lab.context import LabContext
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.link_states import LinkStates
from pytest_benchscale.lab.link_wishes import Stated, Worse
from pytest_benchscale.lab.witness import Pair, Witness
from pytest_benchscale.topology.conditions import Figures
from pytest_benchscale.topology.model import Topology
from pytest_benchscale.topology.presets import preset_named, preset_names

__all__ = ["Impairment", "require_conditions", "stated_of"]

_STEP = "network conditions"


class Impairment(Fault):
    """Figures over those that are there, for the duration of a block; see `Node.impair`, `Lab.impair`."""

    def __init__(
        self, states: LinkStates, witness: Witness | None, what: str, worse: Sequence[Worse]
    ) -> None:
        super().__init__(states.context, what)
        self._states = states
        self._witness = witness
        self._worse = tuple(worse)
        self._comparison: Comparison | None = None

    async def _make(self) -> None:
        require_conditions(self._context)
        links = [
            (one, worse.towards)
            for worse in self._worse
            for one in self._states.on(worse.network, worse.node)
        ]
        if self._witness is not None:
            self._comparison = Comparison(self._states, self._witness, self._ways(self._witness))
            await self._comparison.begin()
        self._states.worse.update(dict.fromkeys(self._worse))
        await self._states.require(*(self._states.figures(*link) for link in links))
        await self._apply()
        if self._comparison and (trouble := await self._comparison.trouble()):
            raise FaultNotEffective(
                f"'{self.what}' has no effect: {trouble}",
                step=_STEP,
                details=str(self._comparison.matrix),
            )

    async def _take_back(self) -> None:
        for worse in self._worse:
            self._states.worse.pop(worse, None)
        await self._apply()
        if self._comparison and (trouble := await self._comparison.trouble()):
            raise FaultNotHealed(
                f"'{self.what}' was taken back and is still there: {trouble}",
                step=_STEP,
                details=str(self._comparison.matrix),
            )

    async def _apply(self) -> None:
        await self._states.apply(dict.fromkeys(worse.node for worse in self._worse))

    def _ways(self, witness: Witness) -> dict[Pair, str | None]:
        """Return between which nodes the change can be seen, and on which network.

        Of one pair's conditions, that is the pair; of a link's, the node and the first that is up beside it.
        """
        found: dict[Pair, str | None] = {}
        for worse in self._worse:
            if worse.towards is not None:
                shared = self._states.shared(worse.node, worse.towards)
                found[worse.node, worse.towards] = worse.network or next(iter(shared), None)
                continue
            for link in self._states.on(worse.network, worse.node):
                others = filter(witness.is_up, self._states.neighbours(link))
                if (other := next(others, None)) is not None:
                    found[link.node, other] = link.network
        return found


def require_conditions(context: LabContext) -> None:
    """Check that conditions can be changed here, and that nobody has switched them off.

    Raises:
        NotSupported: the backend cannot.
        LabError: they are off.
    """
    context.require(Capability.CONDITIONS)
    if context.options.conditions == "off":
        raise LabError(
            "network conditions are switched off in this session",
            step=_STEP,
            resolution="leave out --benchscale-conditions=off, or deselect the tests that change conditions",
        )


def stated_of(topology: Topology, preset: str | None, figures: Mapping[str, object]) -> Stated:
    """Return what a call states: a preset, and figures that win over it.

    Raises:
        LabError: an unknown preset or figure, or a value that cannot be.
    """
    if preset is not None and preset not in (known := preset_names(topology)):
        raise LabError(
            f"there is no preset {preset!r}{did_you_mean(preset, known)}",
            step=_STEP,
            details=f"there are: {', '.join(known)}",
        )
    names = list(Figures.model_fields)
    for name in figures:
        if name not in names:
            raise LabError(
                f"network conditions have no {name!r}{did_you_mean(name, names)}",
                step=_STEP,
                details=f"they have: {', '.join(names)}",
            )
    try:
        stated = Figures.model_validate(figures).stated()
    except ValidationError as exc:
        problems = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in exc.errors())
        raise LabError(f"these network conditions cannot be: {problems}", step=_STEP) from None
    merged = preset_named(topology, preset) | stated
    if merged.get("reorder_percent") and not merged.get("latency_ms"):
        raise LabError(
            "reorder_percent needs a latency_ms: packets overtake those that are delayed",
            step=_STEP,
        )
    return merged
