"""Network conditions: what a link does to the packets that leave a node, and presets of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pytest_benchscale.topology.fields import FilledText, Text, bounded
from pytest_benchscale.topology.scalars import is_missing

__all__ = ["FIGURES", "Conditions", "Declared", "Figures", "Preset"]

_Milliseconds = Annotated[float, *bounded(0, 60_000, " ms")]
_Percent = Annotated[float, *bounded(0, 100, " %")]
_Kbps = Annotated[float, *bounded(0, 1_000_000_000, " kbit/s")]


class Declared(BaseModel):
    """The base of all that a topology file declares: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty_keys(cls, data: Any) -> Any:
        """A key without a value (`env:`) counts as absent."""
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if not is_missing(value)}
        return data


class Figures(Declared):
    """What a link does to packets. None says nothing about a figure, 0 that there is none of it."""

    latency_ms: _Milliseconds | None = Field(
        None, description="Delay of each packet, 0 to 60,000 ms."
    )
    jitter_ms: _Milliseconds | None = Field(
        None, description="How far the delay varies, up and down, 0 to 60,000 ms."
    )
    packet_loss_percent: _Percent | None = Field(
        None, description="Packets that are dropped at random, 0 to 100 %."
    )
    bandwidth_kbps: _Kbps | None = Field(None, description="Rate limit in kbit/s; 0 is unlimited.")
    duplicate_percent: _Percent | None = Field(
        None, description="Packets that are sent twice, 0 to 100 %."
    )
    corrupt_percent: _Percent | None = Field(
        None, description="Packets with one bit flipped, 0 to 100 %."
    )
    reorder_percent: _Percent | None = Field(
        None, description="Packets that overtake the delayed ones, 0 to 100 %."
    )
    jitter_distribution: Literal["uniform", "normal"] | None = Field(
        None,
        description="How the jitter is spread: evenly within its bounds (default), or with it as the "
        "standard deviation.",
    )

    def stated(self) -> dict[str, float | str]:
        """Return everything that is stated, by field name: the figures, and how the jitter is spread."""
        stated = ((name, getattr(self, name)) for name in Figures.model_fields)
        return {name: value for name, value in stated if value is not None}

    def figures(self) -> dict[str, float]:
        """Return the figures that are stated, by field name."""
        stated = ((name, getattr(self, name)) for name in FIGURES)
        return {name: value for name, value in stated if value is not None}

    @property
    def is_noop(self) -> bool:
        """Whether there is nothing to apply: every figure is 0 or not stated."""
        return not any(self.figures().values())


FIGURES: tuple[str, ...] = tuple(
    name for name in Figures.model_fields if name != "jitter_distribution"
)


class Conditions(Figures):
    """Conditions of a network, a node or one attachment: a preset, and figures that win over it."""

    preset: FilledText | None = Field(None, description="Name of the preset to start from.")


class Preset(Figures):
    """Named conditions."""

    description: Text | None = Field(None, description="What the preset stands for.")
    scenario: Text | None = Field(None, description="Where such a link is found.")
