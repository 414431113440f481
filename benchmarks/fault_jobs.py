"""What conditions and faults cost: beside a lab without them, since no peer attests what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.contestants import Contestant
from benchmarks.jobs import Bench, Turn

__all__ = ["faults"]

MANY, SOME = 50, 10


def faults(bench: Bench) -> None:
    """Measure 50 nodes up with a rate on every link, and a partition of 10 nodes."""

    def limited(contestant: Contestant, verb: str) -> Mapping[str, Sequence[float]]:
        seconds = contestant.ask(verb, MANY)
        contestant.ask("down")
        return {f"limited.{MANY}": seconds}

    def cut(contestant: Contestant) -> Mapping[str, Sequence[float]]:
        contestant.ask("up", SOME)
        measured: dict[str, Sequence[float]] = {}
        for row, attest in (("cut", 0), ("cut.attested", 1)):
            begun, ended = contestant.ask("cut", attest)
            measured |= {f"{row}.{SOME}": [begun], f"{row}.{SOME}.healed": [ended]}
        contestant.ask("down")
        return measured

    with bench.start("faults", "ours") as contestants:
        ours = contestants.get("ours")
        if ours is None:
            return
        turns: dict[str, Turn] = {
            "ours": partial(limited, ours, "up_limited"),
            "unlimited": partial(limited, ours, "up"),
        }
        bench.interleave("faults", bench.repeat, turns)
        bench.interleave("faults", bench.repeat, {"ours": partial(cut, ours)})
