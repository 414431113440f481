"""What is attached to the nodes' links, so that new links can be given the same.

The queues are on devices of their own, which stay where a node's end of a link comes and goes.
"""

from __future__ import annotations

from contextlib import contextmanager

from pytest_benchscale.network.steps import (
    AddClassifier,
    AddFilter,
    DeleteClassifier,
    DeleteFilter,
)

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_benchscale.network.steps import Step


class LinkFilters:
    """The filters of each link, by hook and priority."""

    def __init__(self) -> None:
        self._filters: dict[str, dict[tuple[str, int], AddFilter]] = {}

    @contextmanager
    def noting(self, steps: Sequence[Step]) -> Iterator[None]:
        """Take note of steps that are carried out in this block.

        After a failure nothing is known of their devices; whoever asked then takes all away.
        """
        try:
            yield
        except OSError:
            for step in steps:
                self._filters.pop(step.device, None)
            raise
        for step in steps:
            self._note(step)

    def standing(self, device: str) -> list[Step]:
        """Return the steps that attach to a new link what the one of that name had."""
        filters = self._filters.get(device)
        return [AddClassifier(device), *filters.values()] if filters is not None else []

    def _note(self, step: Step) -> None:
        if isinstance(step, AddClassifier):
            self._filters[step.device] = {}
        elif isinstance(step, DeleteClassifier):
            self._filters.pop(step.device, None)
        elif isinstance(step, AddFilter):
            self._filters.setdefault(step.device, {})[step.hook, step.priority] = step
        elif isinstance(step, DeleteFilter):
            self._filters.get(step.device, {}).pop((step.hook, step.priority), None)
