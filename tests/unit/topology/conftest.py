from collections.abc import Callable

import pytest

from pytest_benchscale.errors import TopologyError
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.model import Topology

Load = Callable[..., Topology]
Problems = Callable[..., list[str]]


@pytest.fixture
def load() -> Load:
    """Load a topology from text."""
    return load_text


@pytest.fixture
def problems() -> Problems:
    """Load a topology that is wrong, and return the problems: `3:5: nodes[0].x: unknown key`."""

    def report(text: str, **options: object) -> list[str]:
        with pytest.raises(TopologyError) as caught:
            load_text(text, path="topology.yaml", **options)  # type: ignore[arg-type]
        return [str(item).removeprefix("topology.yaml:") for item in caught.value.problems]

    return report
