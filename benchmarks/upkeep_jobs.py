"""What it costs to give the next test a lab as it was: led back, beside taken down and built anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.contestants import Contestant
from benchmarks.jobs import Bench, Turn

__all__ = ["upkeep"]

NODES, RESETS = 10, 10


def upkeep(bench: Bench) -> None:
    """Measure the reset of a lab, and its rebuild."""

    def reset(contestant: Contestant) -> Mapping[str, Sequence[float]]:
        contestant.ask("up_resettable", NODES)
        seconds = [one for _ in range(RESETS) for one in contestant.ask("reset")]
        contestant.ask("down")
        return {f"reset.{NODES}": seconds}

    def rebuild(contestant: Contestant) -> Mapping[str, Sequence[float]]:
        (built,) = contestant.ask("up", NODES)
        (removed,) = contestant.ask("down")
        return {f"reset.{NODES}": [built + removed]}

    with bench.start("upkeep", "ours") as contestants:
        ours = contestants.get("ours")
        if ours is None:
            return
        turns: dict[str, Turn] = {"ours": partial(reset, ours), "rebuild": partial(rebuild, ours)}
        bench.interleave("upkeep", bench.repeat, turns)
