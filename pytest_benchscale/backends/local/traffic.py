"""What acts on the links of a lab's nodes: carried out by the process that holds them."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_benchscale.backends.local.lab_process import LabProcess
from pytest_benchscale.network.steps import Step, to_json

__all__ = ["HolderTraffic"]


class HolderTraffic:
    """The conduit to the network namespace of a lab, for all its links."""

    def __init__(self, process: LabProcess) -> None:
        self._process = process

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps there.

        Raises:
            OSError: the kernel refused one.
            LabError: the holder is gone, and with it the lab.
        """
        await self._process.request("traffic", steps=[to_json(step) for step in steps])
